use super::*;

const START: Duration = Duration::from_secs(100);

fn is_told_to_go(notice: &mut Notice) -> bool {
    matches!(notice.try_recv(), Err(oneshot::error::TryRecvError::Closed))
}

/// A full room, in which these have asked.
fn full(asked: impl Fn(usize) -> bool) -> (Room, Vec<(Place, Notice)>) {
    let room = Room::default();
    let places: Vec<_> = (0..PLACES).map(|_| room.try_enter(START).unwrap()).collect();
    for (number, (place, _)) in places.iter().enumerate().filter(|(number, _)| asked(*number)) {
        place.ask(START + Duration::from_millis(u64::try_from(number).unwrap()));
    }
    (room, places)
}

#[test]
fn who_comes_takes_the_place_of_the_one_who_has_been_silent_for_longest() {
    let (room, mut places) = full(|number| number != 5 && number != 9);
    let gone = |places: &mut Vec<(Place, Notice)>| -> Vec<usize> {
        let gone = places
            .iter_mut()
            .enumerate()
            .filter_map(|(number, (_, notice))| is_told_to_go(notice).then_some(number));
        gone.collect()
    };
    assert_eq!(gone(&mut places), [0; 0]);
    let (_sixth, _notice) = room.try_enter(START).unwrap();
    assert_eq!(gone(&mut places), [5]);
    let (tenth, _notice) = room.try_enter(START).unwrap();
    assert_eq!(gone(&mut places), [5, 9]);
    // That somebody leaves whose place was taken makes no room.
    tenth.ask(START);
    drop(places.remove(5));
    assert_eq!(room.0.taken.lock().unwrap().places.len(), PLACES);
}

#[test]
fn who_has_asked_is_answered_for_a_turn_at_least_and_then_the_first_one_goes() {
    let (room, mut places) = full(|_| true);
    assert_eq!(room.try_enter(START + TURN / 2).unwrap_err(), TURN / 2);
    let (_place, _notice) = room.try_enter(START + TURN).unwrap();
    let gone = places.iter_mut().filter_map(|(_, notice)| is_told_to_go(notice).then_some(()));
    assert_eq!(gone.count(), 1);
    assert!(is_told_to_go(&mut places[0].1));
    // The one who has come may be silent, and is the next to go.
    assert!(room.try_enter(START + TURN).is_ok());
}

#[test]
fn who_leaves_makes_room_at_once() {
    let (room, mut places) = full(|_| true);
    places.pop();
    assert!(room.try_enter(START).is_ok());
    assert!(places.iter_mut().all(|(_, notice)| !is_told_to_go(notice)));
}
