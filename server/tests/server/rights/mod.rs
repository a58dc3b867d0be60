//! Who may do what: each call, without credentials, with another identity's, and with the right ones.

mod calls;
mod places;
mod streams;

use std::sync::{Arc, Mutex};

use prost::Message;
use serde_json::Value;
use tonic::{Code, Status};
use tsoracle_core::Identity;
use tsoracle_proto::v1;
use tsoracle_server::{
    Access, Audit, Policy, PolicyConfig, Rules, Server, TokenRecord, Tokens, Trust,
};

use crate::common::{
    Running, memory,
    raw::{Answer, Connection},
};

const POLICY: &str = r#"{
    "roles": {"biller": ["seq:invoices/*", "read:invoices/*", "list:invoices/*"]},
    "identities": {
        "billing": ["biller", "lease"],
        "shop": ["client"],
        "watcher": ["reader"],
        "ops": ["admin"],
        "slow": {"may": ["ts", "seq"], "rate": 5},
        "keeper": ["read:a/*", "seed:a/*", "delete:a/*"],
        "janitor": ["release"],
        "small": {"may": ["seq", "lease"], "keys": 1, "leases": 1, "sessions": 1, "named": 1},
        "anonymous": ["ts"]
    }
}"#;

/// The token of an identity of the tests.
fn token(name: &str) -> (String, TokenRecord) {
    let mut random = [0; 32];
    random[..name.len()].copy_from_slice(name.as_bytes());
    TokenRecord::new(&Identity::new(name).unwrap(), random, "2026-01-01T00:00:00Z")
}

fn rules(policy: &str, names: &[&str]) -> Rules {
    let config: PolicyConfig = serde_json::from_str(policy).unwrap();
    let records: Vec<_> = names.iter().map(|name| token(name).1).collect();
    let tokens = Tokens::new(&records).unwrap();
    Rules::new(Some(Policy::new(&config).unwrap()), Some(tokens)).unwrap()
}

const NAMES: [&str; 8] =
    ["billing", "shop", "watcher", "ops", "slow", "small", "keeper", "janitor"];

struct World {
    server: Running,
    connection: Connection,
    access: Access,
    audit: Arc<Mutex<Vec<Value>>>,
}

impl World {
    async fn new() -> Self {
        Self::trusting(Trust::Everyday, rules(POLICY, &NAMES)).await
    }

    async fn trusting(trust: Trust, rules: Rules) -> Self {
        let lines = Arc::new(Mutex::new(vec![]));
        let sink = lines.clone();
        let audit = Audit::new(move |line| {
            sink.lock().unwrap().push(serde_json::from_str(line).unwrap());
        });
        let access = Access::new(rules, audit).trusting(trust);
        let builder = Server::builder().driver(memory().await).access(access.clone());
        let server = Running::start(builder).await;
        let connection = Connection::open(server.address).await;
        let world = Self { server, connection, access, audit: lines };
        // Once it serves, so that nothing is refused for another reason.
        world.server.oracle.get_ts(1).await.unwrap();
        world
    }

    async fn call(&self, name: Option<&str>, method: &str, message: &impl Message) -> Answer {
        let header = name.map(|name| format!("Bearer {}", token(name).0));
        let headers: Vec<_> = header.iter().map(|value| ("authorization", &**value)).collect();
        self.connection.call(&format!("tsoracle.v1.{method}"), &headers, message).await.unwrap()
    }

    async fn code(&self, name: Option<&str>, method: &str, message: &impl Message) -> Code {
        let answer = self.call(name, method, message).await;
        Code::from_bytes(answer.grpc_status().expect("a status").as_bytes())
    }

    async fn get_seq(&self, name: Option<&str>, key: &str) -> Code {
        let request = v1::GetSeqRequest { key: key.into(), count: 1, request_id: None };
        self.code(name, "TsoService/GetSeq", &request).await
    }

    fn audited(&self) -> Vec<Value> {
        self.audit.lock().unwrap().clone()
    }
}

fn reason(answer: &Answer) -> String {
    Status::from_header_map(&answer.metadata).unwrap().message().to_owned()
}

fn seed(key: &str) -> v1::SeedSeqRequest {
    v1::SeedSeqRequest { key: key.into(), start: 100 }
}

fn acquire(holder: &str, epoch: u64) -> v1::AcquireLeaseRequest {
    v1::AcquireLeaseRequest {
        holder: holder.to_owned().into(),
        holder_epoch: epoch,
        ttl_ms: 10_000,
    }
}
