//! When an action is run, and when its result is taken from where it was kept.

use crate::{House, job::Job};

async fn stdout(house: &House, job: &Job) -> (bytes::Bytes, bool) {
    let response = house.ok(job).await;
    (response.result.unwrap().stdout_raw, response.cached_result)
}

async fn executed(house: &House) -> u64 {
    house.scheduler.status().await.counters.executed
}

#[tokio::test]
async fn a_success_is_run_once() {
    let house = House::new().await;
    let job = Job::unique();
    let first = stdout(&house, &job).await;
    assert!(!first.1 && !first.0.is_empty());
    assert_eq!(stdout(&house, &job).await, (first.0.clone(), true));
    let kept = house.cached(&job, job.upload(&house).await).await.unwrap();
    assert_eq!(house.get(job.function, kept.stdout_digest.as_ref()).await, first.0);
    assert_eq!(executed(&house).await, 1);
}

#[tokio::test]
async fn who_skips_the_look_up_has_it_run_again_and_kept() {
    let house = House::new().await;
    let job = Job::unique();
    let skipping = Job { skip_cache_lookup: true, ..job.clone() };
    let first = stdout(&house, &job).await;
    let second = stdout(&house, &skipping).await;
    assert!(!second.1 && first.0 != second.0);
    assert_eq!(stdout(&house, &job).await, (second.0, true));
    assert_eq!(executed(&house).await, 2);
}

#[tokio::test]
async fn what_must_not_be_cached_is_run_each_time() {
    let house = House::new().await;
    let job = Job { do_not_cache: true, ..Job::unique() };
    let (first, second) = (stdout(&house, &job).await, stdout(&house, &job).await);
    assert!(!first.1 && !second.1 && first.0 != second.0);
    assert_eq!(house.cached(&job, job.upload(&house).await).await, None);
    assert_eq!(executed(&house).await, 2);
}

#[tokio::test]
async fn instances_have_results_of_their_own() {
    let house = House::new().await;
    let of = |instance: &str| Job { instance: instance.into(), ..Job::unique() };
    let one = stdout(&house, &of("one")).await;
    let two = stdout(&house, &of("two/deep")).await;
    assert!(!one.1 && !two.1 && one.0 != two.0);
    assert_eq!(stdout(&house, &of("one")).await, (one.0, true));
    assert_eq!(stdout(&house, &of("two/deep")).await, (two.0, true));
    let none = of("");
    assert_eq!(house.cached(&none, none.upload(&house).await).await, None);
}
