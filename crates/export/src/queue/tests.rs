use proptest::prelude::*;

use super::*;

fn batch(bytes: usize, points: u64) -> Batch {
    Batch::new(vec![0; bytes].into(), points)
}

#[test]
fn the_oldest_make_room_for_the_newest_and_no_more_of_them_than_needed() {
    let mut queue = Queue::new(10);
    for points in 1..=3 {
        assert_eq!(queue.push(batch(3, points)), Ok(0));
    }
    assert_eq!(queue.push(batch(4, 4)), Ok(1));
    let left: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|batch| batch.points()).collect();
    assert_eq!(left, [2, 3, 4]);
    assert_eq!((queue.bytes(), queue.points()), (0, 0));
}

#[test]
fn a_batch_that_can_never_fit_pushes_nothing_out() {
    let mut queue = Queue::new(10);
    queue.push(batch(10, 1)).unwrap();
    assert_eq!(queue.push(batch(11, 2)).unwrap_err().points(), 2);
    assert_eq!(queue.points(), 1);
}

#[test]
fn a_batch_put_back_is_the_next_to_be_taken() {
    let mut queue = Queue::new(10);
    queue.push(batch(3, 1)).unwrap();
    queue.push(batch(3, 2)).unwrap();
    let taken = queue.pop().unwrap();
    assert!(!taken.was_attempted());
    queue.put_back(taken).unwrap();
    let taken = queue.pop().unwrap();
    assert!(taken.was_attempted());
    assert_eq!(taken.points(), 1);
}

#[test]
fn a_batch_put_back_into_a_full_queue_goes_rather_than_a_newer_one() {
    let mut queue = Queue::new(10);
    queue.push(batch(6, 1)).unwrap();
    let taken = queue.pop().unwrap();
    queue.push(batch(6, 2)).unwrap();
    assert_eq!(queue.put_back(taken).unwrap_err().points(), 1);
    assert_eq!(queue.pop().unwrap().points(), 2);
}

proptest! {
    #[test]
    fn the_bound_holds_and_no_point_is_unaccounted_for(
        limit in 0usize..100,
        steps in proptest::collection::vec((0usize..40, 0u64..9, any::<bool>(), any::<bool>()), 0..200),
    ) {
        let mut queue = Queue::new(limit);
        let (mut enqueued, mut gone) = (0, 0);
        let mut taken: Option<Batch> = None;
        for (bytes, points, take, give_back) in steps {
            enqueued += points;
            gone += queue.push(batch(bytes, points)).unwrap_or_else(|refused| refused.points());
            if take && taken.is_none() {
                taken = queue.pop();
            }
            if give_back && let Some(batch) = taken.take() {
                gone += queue.put_back(batch).err().map_or(0, |refused| refused.points());
            }
            prop_assert!(queue.bytes() <= limit);
            prop_assert_eq!(enqueued, gone + queue.points() + taken.as_ref().map_or(0, Batch::points));
        }
    }
}
