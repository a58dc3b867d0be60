use std::os::unix::net::UnixListener as BlockingListener;

use tempfile::TempDir;

use super::*;

async fn refused(path: &Path) -> String {
    let error = listen_at(path, SOCKET_MODE).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config);
    format!("{error:#}")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_socket_has_its_mode_and_is_gone_with_its_listener() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    for wanted in [0o600, 0o660, 0o666] {
        let listener = listen_at(&path, wanted).await.unwrap();
        assert_eq!(listener.place().to_string(), format!("unix:{}", path.display()));
        assert_eq!(mode(&path), wanted);
        let (_, accepted) = tokio::join!(UnixStream::connect(&path), listener.accept());
        let user = rustix::process::getuid().as_raw();
        assert_eq!(accepted.unwrap().1, Peer::User(user));
        drop(listener);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_was_left_behind_is_replaced_and_what_answers_is_not() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let first = BlockingListener::bind(&path).unwrap();
    let error = refused(&path).await;
    assert!(error.contains("another program listens there"), "{error}");
    drop(first);
    assert!(path.exists(), "it was left behind");
    let second = listen_at(&path, SOCKET_MODE).await.unwrap();
    assert!(refused(&path).await.contains("another program listens there"));
    UnixStream::connect(&path).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn one_whose_name_another_has_taken_leaves_that_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let first = listen_at(&path, SOCKET_MODE).await.unwrap();
    fs::remove_file(&path).unwrap();
    let second = listen_at(&path, SOCKET_MODE).await.unwrap();
    drop(first);
    UnixStream::connect(&path).await.unwrap();
    drop(second);
}

#[tokio::test]
async fn of_those_that_start_at_once_one_listens() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    drop(BlockingListener::bind(&path).unwrap());
    let starting = (0..16).map(|_| {
        let path = path.clone();
        tokio::spawn(async move { listen_at(&path, SOCKET_MODE).await })
    });
    let starting: Vec<_> = starting.collect();
    let mut listening = vec![];
    for start in starting {
        listening.extend(start.await.unwrap());
    }
    assert_eq!(listening.len(), 1);
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn whoever_begins_waits_for_others_that_begin_in_the_same_directory() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("socket");
    let other = File::open(directory.path()).unwrap();
    other.lock().unwrap();
    let starting = tokio::spawn({
        let path = path.clone();
        async move { listen_at(&path, SOCKET_MODE).await }
    });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!starting.is_finished() && !path.exists());
    drop(other);
    let listener = starting.await.unwrap().unwrap();
    UnixStream::connect(&path).await.unwrap();
    // It is in nobody's way once it listens, and does not wait for ever.
    let other = File::open(directory.path()).unwrap();
    other.try_lock().unwrap();
    drop(listener);
    assert!(refused(&path).await.contains("start this one again"));
}

#[tokio::test]
async fn paths_where_no_socket_can_be() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("file"), "mine").unwrap();
    let error = refused(&path("file")).await;
    assert!(error.contains("is no socket"), "{error}");
    assert_eq!(fs::read(path("file")).unwrap(), b"mine");
    std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
    assert!(refused(&path("link")).await.contains("is no socket"));
    assert!(refused(directory.path()).await.contains("is no socket"));
    let error = refused(&path("nowhere/socket")).await;
    assert!(error.contains("nowhere/socket") && error.contains("create it"), "{error}");
    let error = refused(&path("file/socket")).await;
    assert!(error.contains("not one"), "{error}");
    let error = refused(&path(&"x".repeat(200))).await;
    assert!(error.contains("may have 107"), "{error}");
}
