use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn what_hangs_is_joined_and_not_started_again() {
    let (solo, started) = (Solo::default(), Arc::new(AtomicU32::new(0)));
    let (let_go, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let work = || {
        let (started, held) = (Arc::clone(&started), Arc::clone(&held));
        move || {
            started.fetch_add(1, Ordering::SeqCst);
            held.lock().unwrap().recv().unwrap();
            7
        }
    };
    for _ in 0..20 {
        let impatient = timeout(Duration::from_millis(5), solo.run("test", work())).await;
        assert!(impatient.is_err());
    }
    assert_eq!(started.load(Ordering::SeqCst), 1);
    // It waits before the first lets go: otherwise it would begin anew, and for ever.
    let (last, ()) = tokio::join!(solo.run("test", work()), async { let_go.send(()).unwrap() });
    assert_eq!(last.unwrap(), 7, "what the first began serves the last");
    assert_eq!(started.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn each_answer_is_new_once_the_one_before_is_there() {
    let solo = Solo::default();
    for number in 0..500 {
        assert_eq!(solo.run("test", move || number).await.unwrap(), number);
    }
}

#[tokio::test]
async fn work_that_panics_is_an_error_and_does_not_block_the_next() {
    let solo = Solo::default();
    assert!(solo.run("test", || -> u32 { panic!("on purpose") }).await.is_err());
    assert_eq!(solo.run("test", || 3).await.unwrap(), 3);
}
