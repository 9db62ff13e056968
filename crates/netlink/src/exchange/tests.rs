use super::*;
use crate::codec::{Cursor, REQUEST, REQUEST_DUMP, encode_message};
use crate::script::Event::{Answer, AnswerTo, Forgery, Misdirected, Oversized, ReceiveError, Stale};
use crate::script::{Event, Script, done, done_with, message, overrun, refusal};

/// A family whose messages tell a number.
enum Numbers {}

impl Codec for Numbers {
    type Told = u32;
    const KIND: u16 = 20;
    const EXPECTED: &'static str = "a message type of tests";

    fn decode(mut payload: Cursor<'_>) -> Result<u32, Malformed> {
        payload.take_u32("a number")
    }
}

fn number(number: u32) -> Vec<u8> {
    message(20, 2, &number.to_ne_bytes())
}

fn line(exchanges: impl IntoIterator<Item = Vec<Event>>) -> Line<Script> {
    Script::new(exchanges).open_line()
}

/// Asks for all numbers, and wants none above 99.
fn dump(line: &mut Line<Script>, room: u32) -> Result<(Ended<u32>, Vec<u32>), Failure> {
    let mut told = Vec::new();
    let encode = |sequence, out: &mut Vec<u8>| encode_message(out, 20, REQUEST_DUMP, sequence, |_out| Ok(()));
    let ended = Exchange::default().dump::<Numbers, _, _>(line, room, encode, |number| {
        if number > 99 {
            return ControlFlow::Break(number);
        }
        told.push(number);
        ControlFlow::Continue(())
    })?;
    Ok((ended, told))
}

/// Asks for each of these numbers, and takes `ENOENT` for none.
fn ask(line: &mut Line<Script>, asked: &[u32]) -> Result<(Answers, Vec<Option<u32>>), Failure> {
    let mut told = Vec::new();
    let encode = |sequence, number: &u32, out: &mut Vec<u8>| {
        encode_message(out, 20, REQUEST, sequence, |out| out.extend(number.to_ne_bytes()));
    };
    let answers = Exchange::default().ask::<Numbers, _, _>(line, asked, encode, |_number, answer| {
        told.push(match answer {
            Ok(number) => Some(number),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno),
        });
        Ok(())
    })?;
    Ok((answers, told))
}

#[test]
fn a_reply_in_pieces_is_one_reply_and_the_socket_is_kept() {
    let together = [number(2), number(3)].concat();
    let mut line = line([vec![Answer(number(1)), Answer(together), Answer(done())], vec![Answer(done())]]);
    assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 3 }, vec![1, 2, 3])));
    assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 0 }, vec![])));
    assert_eq!(line.transport.reopened, 0);
}

#[test]
fn what_is_no_answer_of_the_kernel_to_this_request_of_this_socket_is_ignored() {
    for sent_by_another in [Forgery, Stale, Misdirected] {
        let mut line = line([vec![
            sent_by_another(number(9)),
            sent_by_another(done()),
            Answer(number(1)),
            Answer(done()),
        ]]);
        assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 1 }, vec![1])));
    }
}

#[test]
fn an_empty_datagram_is_not_taken_for_the_end() {
    let mut line = line([vec![Answer(Vec::new()), Answer(number(1)), Answer(done())]]);
    assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 1 }, vec![1])));
}

#[test]
fn a_dump_that_the_kernel_cannot_vouch_for_is_interrupted_and_the_socket_not_used_again() {
    let interruptions: [fn() -> Event; 5] = [
        || Answer(message(20, 2 | 0x10, &[0; 4])),
        || Answer(message(3, 2 | 0x10, &[0; 4])),
        || Answer(overrun()),
        || Answer(done_with(105)),
        || ReceiveError(Errno::NOBUFS),
    ];
    for interruption in interruptions {
        let mut line = line([vec![Answer(number(9)), interruption()], vec![Answer(done())]]);
        assert_eq!(dump(&mut line, 9), Ok((Ended::Interrupted, vec![9])));
        assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 0 }, vec![])));
        assert_eq!(line.transport.reopened, 1);
    }
}

#[test]
fn who_refused_and_who_broke_off_are_told_apart() {
    let failed = |operation, errno| Ok((Ended::Failed { operation, errno }, vec![]));
    let mut refused = line([vec![Answer(refusal(22))]]);
    assert_eq!(dump(&mut refused, 9), failed(Operation::Request, Errno::INVAL));
    let mut broken_off = line([vec![Answer(done_with(12))]]);
    assert_eq!(dump(&mut broken_off, 9), failed(Operation::Reply, Errno::NOMEM));
    let mut unsent = line([]);
    unsent.transport.exchanges.extend([Err(Errno::MSGSIZE), Err(Errno::NOBUFS)]);
    assert_eq!(dump(&mut unsent, 9), failed(Operation::Request, Errno::MSGSIZE));
    assert_eq!(dump(&mut unsent, 9), Ok((Ended::Interrupted, vec![])), "memory was short");
}

#[test]
fn a_request_that_does_not_fit_is_not_sent() {
    let mut line = line([]);
    let ended = Exchange::default().dump::<Numbers, _, ()>(
        &mut line,
        9,
        |_sequence, _out| Err(TooLong(65_532)),
        |_number| ControlFlow::Continue(()),
    );
    assert_eq!(ended, Ok(Ended::Failed { operation: Operation::Request, errno: Errno::MSGSIZE }));
}

#[test]
fn a_socket_that_cannot_be_opened_or_read_fails_the_exchange() {
    let mut silent = line([vec![ReceiveError(Errno::AGAIN)]]);
    let failed = |operation, errno| Err(Failure::Failed { operation, errno });
    assert_eq!(dump(&mut silent, 9), failed(Operation::Reply, Errno::AGAIN));
    silent.transport.open_error = Some(Errno::MFILE);
    assert_eq!(dump(&mut silent, 9), failed(Operation::Open, Errno::MFILE));
    let mut closed = Line::new(Script::new([vec![Answer(done())]]));
    assert_eq!(dump(&mut closed, 9), Ok((Ended::Complete { told: 0 }, vec![])));
    assert_eq!(closed.transport.reopened, 1, "it is opened when it is needed");
}

#[test]
fn a_datagram_that_was_cut_off_or_makes_no_sense_is_malformed() {
    let senseless: [fn() -> Event; 3] =
        [|| Oversized, || Answer(vec![1, 2, 3]), || Answer(message(77, 0, &[]))];
    for event in senseless {
        let told = dump(&mut line([vec![Answer(number(1)), event()]]), 9);
        assert!(matches!(told, Err(Failure::Malformed(_))), "{told:?}");
    }
}

#[test]
fn no_more_is_read_than_there_is_room_for_or_is_wanted() {
    let told = |numbers: std::ops::Range<u32>| numbers.map(|told| Answer(number(told))).collect::<Vec<_>>();
    assert_eq!(dump(&mut line([told(0..8)]), 3), Err(Failure::TooMany));
    let mut line = line([told(98..105), vec![Answer(done())]]);
    assert_eq!(dump(&mut line, 9), Ok((Ended::Stopped(100), vec![98, 99])));
    assert_eq!(dump(&mut line, 9), Ok((Ended::Complete { told: 0 }, vec![])));
    assert_eq!(line.transport.reopened, 1, "what was still to come is not taken for the next answer");
}

#[test]
fn each_request_of_a_send_has_its_number_and_the_answers_keep_their_order() {
    let events = vec![AnswerTo(0, [number(1), refusal(2)].concat()), AnswerTo(2, number(3))];
    let mut line = line([events, vec![AnswerTo(0, number(4))]]);
    assert_eq!(ask(&mut line, &[1, 2, 3]), Ok((Answers::All, vec![Some(1), None, Some(3)])));
    assert_eq!(ask(&mut line, &[4]), Ok((Answers::All, vec![Some(4)])));
    let sequences: Vec<[u8; 4]> = line
        .transport
        .requests
        .concat()
        .chunks(20)
        .map(|request| request[8..12].try_into().unwrap())
        .collect();
    assert_eq!(sequences, [1_u32, 2, 3, 1].map(u32::to_ne_bytes));
    assert_eq!(line.transport.reopened, 0);
}

#[test]
fn what_is_no_answer_to_a_request_of_the_send_is_ignored() {
    let mut line = line([vec![
        Stale(refusal(2)),
        Misdirected(refusal(2)),
        Forgery(refusal(2)),
        Answer(Vec::new()),
        AnswerTo(0, number(1)),
        AnswerTo(2, refusal(2)),
        AnswerTo(1, message(1, 0, &[])),
        AnswerTo(1, number(2)),
    ]]);
    assert_eq!(ask(&mut line, &[1, 2]), Ok((Answers::All, vec![Some(1), Some(2)])));
}

#[test]
fn an_answer_that_is_lost_or_out_of_order_loses_those_behind_it() {
    let losses: [fn() -> Event; 5] = [
        || ReceiveError(Errno::NOBUFS),
        || AnswerTo(1, refusal(105)),
        || AnswerTo(1, refusal(11)),
        || AnswerTo(1, overrun()),
        || AnswerTo(2, number(3)),
    ];
    for loss in losses {
        let mut line = line([vec![AnswerTo(0, number(1)), loss()], vec![AnswerTo(0, number(4))]]);
        assert_eq!(ask(&mut line, &[1, 2, 3]), Ok((Answers::Lost, vec![Some(1)])));
        assert_eq!(ask(&mut line, &[4]), Ok((Answers::All, vec![Some(4)])));
        assert_eq!(line.transport.reopened, 1);
    }
    for errno in [Errno::NOBUFS, Errno::MSGSIZE] {
        let mut line = line([]);
        line.transport.exchanges.push_back(Err(errno));
        assert_eq!(ask(&mut line, &[1]), Ok((Answers::Lost, vec![])), "no room for the requests");
    }
}

#[test]
fn an_answer_that_makes_no_sense_or_never_comes_fails_all_and_ends_the_conversation() {
    let ends: [fn() -> Event; 5] = [
        || AnswerTo(1, message(20, 2, &[0; 3])),
        || AnswerTo(1, message(77, 0, &[])),
        || AnswerTo(1, refusal(1)),
        || Oversized,
        || ReceiveError(Errno::AGAIN),
    ];
    for end in ends {
        let mut line = line([vec![AnswerTo(0, number(1)), end()], vec![AnswerTo(0, number(4))]]);
        assert!(ask(&mut line, &[1, 2]).is_err());
        assert_eq!(ask(&mut line, &[4]), Ok((Answers::All, vec![Some(4)])));
        assert_eq!(line.transport.reopened, 1);
    }
    let refused = ask(&mut line([vec![AnswerTo(0, refusal(1))]]), &[1]);
    assert_eq!(refused, Err(Failure::Failed { operation: Operation::Request, errno: Errno::PERM }));
}
