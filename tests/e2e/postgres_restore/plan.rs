//! What a plan says: sizes, room, who is cut off.

use backstay::component::postgres::PostgresRestorer;
use backstay::component::{RestoreOptions, Restorer};

use super::{options, options_of};
use crate::postgres_restore::stored::Stored;
use crate::support::{Major, Postgres};

#[tokio::test]
async fn a_plan_names_who_is_cut_off_and_how_much_room_there_is() {
    let server = Postgres::start(Major::V15);
    let modest = super::modest(&server);
    let stored = Stored::of(options(&server, &["app"])).await;
    let mut config: tokio_postgres::Config = server.url("app").parse().expect("a URL");
    let (_session, connection) = config.application_name("shop").connect(tokio_postgres::NoTls).await.expect("connected");
    tokio::spawn(connection);

    let plan = PostgresRestorer::new(options(&server, &[])).plan(&stored.component(), &RestoreOptions::default()).await.expect("a plan");
    let text = plan.steps.join("\n");
    assert!(text.contains("1 session is cut: 1 of \"postgres\" (shop)") && !text.contains("may not end"), "{text}");
    let room = plan.facts["room"]["available_bytes"].as_u64();
    assert_eq!(room.is_some(), rustix::process::geteuid().is_root(), "this user may look into the data directory: {:?}", plan.facts);
    let database = &plan.facts["databases"][0];
    let size: u64 = server.psql("SELECT pg_database_size('app')").parse().expect("a number");
    assert_eq!((database["current_bytes"].as_u64(), database["sessions"][0]["application"].as_str()), (Some(size), Some("shop")));

    let restorer = PostgresRestorer::new(options_of(&modest, &[]));
    let plan = restorer.plan(&stored.component(), &RestoreOptions::default()).await.expect("a plan");
    let text = plan.steps.join("\n");
    assert!(text.contains("may not end the sessions of \"postgres\"") && text.contains("cannot be seen"), "{text}");
}
