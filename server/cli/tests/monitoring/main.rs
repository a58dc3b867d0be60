//! What an operator's tools see: series, alerts, a dashboard, logs and traces.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

#[cfg(feature = "openraft")]
mod dashboard;
mod documented;
mod http;
mod logs;
#[path = "../binary/node.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod node;
#[path = "../binary/ports.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod ports;
mod rules;
mod scrape;
mod series;
#[cfg(feature = "otlp")]
mod traces;
