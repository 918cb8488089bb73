//! Every backup on every server: older to newer works, newer to older is refused with both versions named.

use super::{chain, failed, options, outside, stage, with_clients};
use crate::postgres_restore::stored::Stored;
use crate::support::{Fingerprint, Major, Postgres, sample};
use backstay::component::postgres::PostgresRestorer;
use backstay::component::{Destination, RestoreOptions, Restorer};

#[test]
fn every_major_goes_to_itself_and_to_newer_ones() {
    if !with_clients("postgres_restore::versions::every_major_goes_to_itself_and_to_newer_ones", &[Major::V16, Major::V17, Major::V18]) {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let servers = Major::ALL.map(|major| {
            let server = Postgres::start(major);
            sample::fill_postgres(&server);
            server
        });
        let mut outcomes = Vec::new();
        for source in &servers {
            let stored = Stored::of(options(source, &["app"])).await;
            for target in &servers {
                let restorer = PostgresRestorer::new(options(target, &[]));
                let (from, to) = (source.major().number(), target.major().number());
                let asked = RestoreOptions { to: Destination::Into(format!("from_{from}")), ..RestoreOptions::default() };
                if from > to {
                    let before = outside(target);
                    let error = failed(restorer.plan(&stored.component(), &asked).await, target, &before);
                    let text = chain(&error);
                    assert!(text.contains(&format!("PostgreSQL {from}")) && text.contains(&format!("PostgreSQL {to}")), "{text}");
                    failed(stage(&restorer, &stored, &asked).await, target, &before);
                    outcomes.push((from, to, "refused"));
                    continue;
                }
                let plan = restorer.plan(&stored.component(), &asked).await.unwrap_or_else(|e| panic!("{from} to {to}: {}", chain(&e)));
                let crossing = format!("From PostgreSQL {from} to {to}");
                assert_eq!(plan.steps.iter().any(|step| step.starts_with(&crossing)), from < to, "{:?}", plan.steps);
                let restored = super::restore(&restorer, &stored, &asked).await;
                let lost: Vec<_> = restored.warnings.iter().filter(|warning| !warning.contains("could not be analyzed")).collect();
                assert!(lost.is_empty(), "{from} to {to}: {lost:?}");
                let rows = "SELECT count(*), sum(hashtextextended(c::text, 0)::numeric) FROM shop.customer c";
                assert_eq!(source.psql_in("app", rows), target.psql_in(&format!("from_{from}"), rows), "{from} to {to}");
                if from == to {
                    let found = Fingerprint::of(source, "app").differences(&Fingerprint::of(target, &format!("from_{from}")));
                    assert!(found.iter().all(|line| line.starts_with("schema:") || line.starts_with("database ")), "{found:?}");
                }
                target.psql(&format!("DROP DATABASE from_{from}"));
                outcomes.push((from, to, "restored"));
            }
        }
        assert_eq!(outcomes.len(), 16);
        assert_eq!(outcomes.iter().filter(|(.., outcome)| *outcome == "restored").count(), 10, "{outcomes:?}");
    });
}
