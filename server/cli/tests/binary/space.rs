//! A disk that fills up, on a file system of the process's own.

use std::{fs, path::Path};

use tonic::{Code, Status, transport::Channel};
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_proto::v1::{GetSeqRequest, GetSeqResponse, tso_service_client::TsoServiceClient};

use crate::{
    node::{MOST, Node, problem, shell, wait_until_sound},
    ports::free_port,
};

async fn get(client: &mut TsoServiceClient<Channel>, key: &str) -> Result<GetSeqResponse, Status> {
    let request = GetSeqRequest { key: key.into(), count: 1, request_id: None };
    client.get_seq(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_disk_that_fills_up_keeps_what_exists_going() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("disk")).unwrap();
    let admin = free_port();
    let serve = "exec \"$TSORACLE\" serve \"file:disk/state\" --listen 127.0.0.1:0 \
                 --admin-listen $ADMIN --reserve-bytes 134217728";
    let mount = "mount -t tmpfs -o size=256m none disk";
    let line = format!("exec unshare -rm sh -c '{mount} && {serve}'");
    let mut command = shell(directory.path(), &line);
    command.env("TSORACLE", env!("CARGO_BIN_EXE_tsoracle")).env("ADMIN", &admin);
    let node = Node::spawn(command);
    let endpoint = Channel::from_shared(format!("http://{}", node.address)).unwrap();
    let mut client = TsoServiceClient::new(endpoint.connect().await.unwrap());
    get(&mut client, "old").await.unwrap();
    get(&mut client, "before").await.unwrap();
    // The file system is seen through the process.
    let root = Path::new("/proc").join(node.id().to_string()).join("root");
    let disk = directory.path().canonicalize().unwrap().join("disk");
    let filler = root.join(disk.strip_prefix("/").unwrap()).join("filler");
    fs::write(&filler, vec![1; 128 << 20]).unwrap();
    let (mut number, until) = (0, SystemClock.now().boot + MOST);
    let refused = loop {
        assert!(SystemClock.now().boot < until, "nothing is refused");
        number += 1;
        match get(&mut client, &format!("new-{number}")).await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("the leader's disk"), "{refused}");
    assert_eq!(get(&mut client, "old").await.unwrap().start, 1);
    let found = tokio::task::spawn_blocking({
        let admin = admin.clone();
        move || problem(&admin, "disk_nearly_full")
    });
    let found = found.await.unwrap();
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("disk/state") && what.contains("134.2 MB are kept"), "{found}");
    assert!(found["do"].as_str().unwrap().contains("make space there"), "{found}");
    fs::remove_file(&filler).unwrap();
    tokio::task::spawn_blocking(move || wait_until_sound(&admin)).await.unwrap();
    let until = SystemClock.now().boot + MOST;
    while let Err(status) = get(&mut client, "after").await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(SystemClock.now().boot < until, "nothing new is taken again: {status}");
    }
}
