use clap::Args;
use serde::Serialize;
use tsoracle_proto::v1::{ReloadRequest, cluster_service_client::ClusterServiceClient};

use crate::{
    endpoints::{Dialer, Endpoints, said, within},
    failure::Failure,
    output::{Output, word},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle reload --endpoint 127.0.0.1:50552
  tsoracle reload --endpoint db1:50552,db2:50552,db3:50552    each of them

A server does so by itself within seconds when its files change, and on SIGHUP. Asked for, it says
what came of it. It needs the right \"cluster\", or the address of administrators.

Exit codes: 0 all have taken them up, 1 one has not, 2 wrong arguments.";

/// Options of `tsoracle reload`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Report<'a> {
    endpoint: &'a str,
    /// Settings that have changed, and hold from the next start on alone.
    next_start: Vec<String>,
    error: Option<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { endpoints, output } = arguments;
    let dialer = endpoints.dialer()?;
    let mut failed = 0;
    for endpoint in endpoints.names() {
        let (next_start, error) = match ask(endpoint, &dialer).await {
            Ok(next_start) => (next_start, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        failed += usize::from(error.is_some());
        let report = Report { endpoint, next_start, error };
        output.print(&report, || text(&report))?;
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::failed("a server has not taken its settings up")),
        many => Err(Failure::failed(format!("{many} servers have not taken their settings up"))),
    }
}

async fn ask(endpoint: &str, dialer: &Dialer) -> Result<Vec<String>, String> {
    let mut cluster = ClusterServiceClient::new(dialer.dial(endpoint).await?);
    match cluster.reload(within(ReloadRequest {}, dialer.timeout)).await {
        Ok(answer) => Ok(answer.into_inner().next_start),
        Err(status) => Err(said(&status)),
    }
}

fn text(report: &Report<'_>) -> String {
    let endpoint = report.endpoint;
    match (&report.error, &report.next_start[..]) {
        (Some(error), _) => format!("{endpoint}  {}", word(error)),
        (None, []) => format!("{endpoint}  taken up"),
        (None, later) => {
            format!(
                "{endpoint}  taken up; holds from the next start on: {}",
                word(&later.join(", "))
            )
        }
    }
}
