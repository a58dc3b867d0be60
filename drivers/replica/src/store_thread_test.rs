use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use tsoracle_core::{
    BootTime, Effect, Error, ErrorKind, Outcome, Reads, Result, SystemClock, Version,
};
use tsoracle_store::Store;

use crate::{
    Replica, StoreThread, snapshot,
    store_thread::{After, Write},
};

async fn start(path: &Path) -> StoreThread {
    let path = path.to_owned();
    let open = move || {
        let store = Store::open(&path, Default::default())?;
        Ok((Replica::open(store, BootTime::default())?, ()))
    };
    StoreThread::start(Arc::new(SystemClock), open).await.unwrap().0
}

fn write(thread: &StoreThread, first: u64, done: impl FnOnce(Result<()>) + Send + 'static) {
    let done = Box::new(done);
    thread.submit(Write { writes: vec![], first: Some(first), logged: vec![], done });
}

#[tokio::test]
async fn what_is_applied_is_on_the_disk_though_both_are_asked_for_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let thread = start(directory.path()).await;
    // The thread stands still meanwhile, so that it takes both at once.
    let (go_on, stands_still) = mpsc::channel();
    write(&thread, 0, move |_| stands_still.recv().unwrap());
    let is_durable = Arc::new(AtomicBool::new(false));
    let written = is_durable.clone();
    write(&thread, 1, move |_| written.store(true, Ordering::Release));
    let applying = async {
        thread.run(After::Log(1), |_| Ok(())).await.unwrap();
        is_durable.load(Ordering::Acquire)
    };
    let (was_durable, ()) = tokio::join!(applying, async { go_on.send(()).unwrap() });
    assert!(was_durable, "it was applied, and its caller answered, ahead of the disk");
    thread.stop().await.unwrap();
}

#[tokio::test]
async fn after_everything_is_after_what_is_not_in_the_log_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let thread = start(directory.path()).await;
    let (go_on, stands_still) = mpsc::channel();
    let (stands, has_come) = mpsc::channel();
    write(&thread, 0, move |_| {
        stands.send(()).unwrap();
        stands_still.recv().unwrap();
    });
    has_come.recv().unwrap();
    let is_durable = Arc::new(AtomicBool::new(false));
    let written = is_durable.clone();
    let done = Box::new(move |_| written.store(true, Ordering::Release));
    thread.submit(Write { writes: vec![], first: None, logged: vec![], done });
    let working = async {
        thread.run(After::Everything, move |_| Ok(is_durable.load(Ordering::Acquire))).await
    };
    let (was_durable, ()) = tokio::join!(working, async { go_on.send(()).unwrap() });
    assert!(was_durable.unwrap());
    thread.stop().await.unwrap();
}

#[tokio::test]
async fn the_first_error_is_final_for_reads_and_writes_too() {
    let directory = tempfile::tempdir().unwrap();
    let thread = start(directory.path()).await;
    thread.read(&Reads::default()).await.unwrap();
    let failing = |_: &mut Replica| Err::<(), _>(Error::new(ErrorKind::Fatal, "the disk is gone"));
    thread.run(After::Anytime, failing).await.unwrap_err();
    let failed = thread.failed().borrow().clone().unwrap();
    assert!(failed.to_string().contains("the disk is gone"), "{failed}");
    let refused = [
        thread.read(&Reads::default()).await.map(drop),
        thread.write(vec![]).await,
        thread.snapshot().await.map(drop),
    ];
    for refused in refused {
        assert_eq!(*refused.unwrap_err().kind(), ErrorKind::Fatal);
    }
    thread.stop().await.unwrap();
}

#[tokio::test]
async fn stopping_keeps_what_was_applied_and_leaves_it_to_those_who_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let thread = start(directory.path()).await;
    let mut effect = Effect::default();
    effect.set_version(Version::EMPTY.next(5).unwrap());
    let made = effect.version().unwrap();
    let applying = thread.run(After::Anytime, move |replica| {
        replica.apply(Version::EMPTY, effect, BootTime::default())
    });
    assert_eq!(applying.await.unwrap().unwrap(), Outcome::Stored);
    // No snapshot has written it.
    thread.stop().await.unwrap();
    let thread = start(directory.path()).await;
    assert_eq!(thread.read(&Reads::default()).await.unwrap().version, made);
    let chunks = thread.snapshot().await.unwrap();
    thread.stop().await.unwrap();
    snapshot::verify(chunks).unwrap();
    let error = thread.read(&Reads::default()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    let thread = start(directory.path()).await;
    assert_eq!(thread.read(&Reads::default()).await.unwrap().version, made);
    thread.stop().await.unwrap();
}
