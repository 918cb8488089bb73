//! The control connection: short questions and orders, by the redis crate over our own connection.

use std::net::IpAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Value, cmd};
use tokio::task::JoinHandle;

use super::RedisError;
use super::connect::{Connection, REPLY_TIMEOUT};
use super::endpoint::Endpoint;
use super::info::Info;

/// How often a state that the server does not announce is asked for.
pub const POLL: Duration = Duration::from_millis(200);

/// A signed-in control connection.
pub struct Control {
    connection: MultiplexedConnection,
    driver: JoinHandle<()>,
    pub at: String,
    /// The address by which the server can reach this host.
    pub local: IpAddr,
}

impl Control {
    pub async fn open(endpoint: &Endpoint) -> Result<Self, RedisError> {
        let Connection { wire, local, at } = Connection::open(endpoint).await?;
        // Signed in already, and silent about the library's name: neither needs a permission of its own.
        let identity = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(REPLY_TIMEOUT));
        let (connection, driver) = MultiplexedConnection::new_with_config(&identity, wire, config)
            .await
            .map_err(|source| RedisError::Command { at: at.clone(), command: "HELLO", source })?;
        Ok(Self { connection, driver: tokio::spawn(driver), at, local })
    }

    /// Sends a command; the first of `words` names it in errors.
    pub async fn call(&mut self, words: &[&'static str], args: &[&str]) -> Result<Value, RedisError> {
        let name = words.first().copied().unwrap_or_default();
        let mut command = cmd(name);
        for arg in words.iter().skip(1).chain(args) {
            command.arg(*arg);
        }
        let answer = self.connection.send_packed_command(&command).await.and_then(Value::extract_error);
        answer.map_err(|e| match e.code() {
            Some(code) => {
                // Servers repeat arguments in this one message, and an argument may be a password.
                let detail = e.detail().filter(|d| !d.contains("with args beginning with")).unwrap_or("unknown command");
                RedisError::Refused { at: self.at.clone(), command: name, reply: format!("{code} {detail}") }
            }
            None => RedisError::Command { at: self.at.clone(), command: name, source: e },
        })
    }

    pub async fn info(&mut self) -> Result<Info, RedisError> {
        Ok(Info::parse(&text(&self.call(&["INFO"], &[]).await?)))
    }

    /// A configuration value; `None` where the server has no such setting.
    pub async fn config(&mut self, key: &'static str) -> Result<Option<String>, RedisError> {
        match self.call(&["CONFIG", "GET", key], &[]).await? {
            Value::Array(pair) => Ok(pair.get(1).map(text)),
            _ => Ok(None),
        }
    }

    pub async fn set_config(&mut self, key: &'static str, value: &str) -> Result<(), RedisError> {
        self.call(&["CONFIG", "SET", key], &[value]).await.map(drop)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The text of a reply; empty if it is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}
