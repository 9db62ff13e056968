use proptest::prelude::*;

use super::*;
use crate::testing::batch;

/// A queue into which cycles are pushed, each of batches with so many bytes and points.
fn queue(limit: usize, cycles: &[&[(usize, u64)]]) -> Queue {
    let mut queue = Queue::new(limit);
    for cycle in cycles {
        queue.begin_cycle();
        for (bytes, points) in *cycle {
            queue.push(batch(*bytes, *points));
        }
    }
    queue
}

fn left(queue: &mut Queue) -> Vec<u64> {
    std::iter::from_fn(|| queue.pop()).map(|batch| batch.points()).collect()
}

#[test]
fn the_oldest_make_room_for_the_newest_and_no_more_of_them_than_needed() {
    let mut queue = queue(10, &[&[(3, 1)], &[(3, 2)], &[(3, 3)]]);
    assert_eq!(queue.points(), 6);
    queue.begin_cycle();
    assert_eq!(queue.push(batch(4, 4)), 1);
    assert_eq!(left(&mut queue), [2, 3, 4]);
    assert_eq!((queue.bytes(), queue.points()), (0, 0));
}

#[test]
fn a_cycle_beyond_the_limit_waits_in_full_and_pushes_out_all_before_it() {
    let mut queue = queue(10, &[&[(3, 1), (3, 2)], &[(6, 4), (6, 8), (20, 16)]]);
    assert_eq!(queue.bytes(), 32);
    assert_eq!(left(&mut queue), [4, 8, 16]);
}

#[test]
fn a_cycle_that_was_beyond_the_limit_makes_room_for_the_next() {
    let mut queue = queue(10, &[&[(6, 1), (6, 2), (6, 4)]]);
    queue.begin_cycle();
    assert_eq!(queue.push(batch(4, 8)), 1 + 2);
    assert_eq!(left(&mut queue), [4, 8]);
}

#[test]
fn a_batch_put_back_is_the_next_to_be_taken() {
    let mut queue = queue(10, &[&[(3, 1), (3, 2)]]);
    let taken = queue.pop().unwrap();
    assert!(!taken.was_attempted());
    queue.put_back(taken).unwrap();
    let taken = queue.pop().unwrap();
    assert!(taken.was_attempted());
    assert_eq!(taken.points(), 1);
}

#[test]
fn a_batch_put_back_into_a_full_queue_goes_rather_than_a_newer_one() {
    let mut queue = queue(10, &[&[(6, 1)]]);
    let taken = queue.pop().unwrap();
    queue.begin_cycle();
    queue.push(batch(6, 2));
    assert_eq!(queue.put_back(taken).unwrap_err().points(), 1);
    assert_eq!(left(&mut queue), [2]);
}

#[test]
fn a_batch_of_the_newest_cycle_is_put_back_even_into_a_full_queue() {
    let mut queue = queue(10, &[&[(6, 1), (6, 2)]]);
    let taken = queue.pop().unwrap();
    queue.put_back(taken).unwrap();
    assert_eq!(left(&mut queue), [1, 2]);
}

proptest! {
    #[test]
    fn the_bound_holds_and_no_point_is_unaccounted_for(
        limit in 0usize..100,
        steps in proptest::collection::vec((0usize..40, 0u64..9, 0u8..4, any::<bool>(), any::<bool>()), 0..200),
    ) {
        let mut queue = Queue::new(limit);
        let (mut enqueued, mut gone) = (0, 0);
        let mut cycle_bytes = 0;
        let mut taken: Option<Batch> = None;
        for (bytes, points, begins, take, give_back) in steps {
            if begins == 0 {
                queue.begin_cycle();
                cycle_bytes = 0;
            }
            enqueued += points;
            cycle_bytes += bytes;
            gone += queue.push(batch(bytes, points));
            if take && taken.is_none() {
                taken = queue.pop();
            }
            if give_back && let Some(batch) = taken.take() {
                gone += queue.put_back(batch).err().map_or(0, |refused| refused.points());
            }
            prop_assert!(queue.bytes() <= limit.max(cycle_bytes));
            prop_assert_eq!(enqueued, gone + queue.points() + taken.as_ref().map_or(0, Batch::points));
        }
    }
}
