use std::time::Duration;

use super::*;
use crate::event::{Partition, Topic};

fn partition(number: i32) -> TopicPartition {
    TopicPartition { topic: Topic::from("events"), partition: Partition(number) }
}

fn at(number: i32, offset: i64) -> Source {
    Source { topic: Topic::from("events"), partition: Partition(number), offset: Offset(offset) }
}

fn brakes(run: usize) -> (Brakes<i64>, Arc<Board>) {
    let board = Arc::new(Board::default());
    let settings = Settings { rules: vec![Rule::run(run)], hold: Duration::from_secs(10) };
    let mut brakes = Brakes::new(Some(settings), Arc::clone(&board));
    assert!(!brakes.came(&[Assignment::fresh(partition(0)), Assignment::fresh(partition(1))]));
    (brakes, board)
}

fn bad(brakes: &mut Brakes<i64>, number: i32, offset: i64) -> Weighed<i64> {
    brakes.bad(&at(number, offset), Code::MissingField, offset, Tick(0), UnixMillis(7), |offset| Offset(*offset))
}

fn release(board: &Board, number: i32, through: Option<i64>) -> Result<Offset, NotReleased> {
    let released = board.release(&partition(number), through.map(Offset), "ops".to_owned(), "known".to_owned());
    released.map(|(_, through)| through)
}

#[test]
fn one_partition_stops_and_the_others_go_on() {
    let (mut brakes, board) = brakes(3);
    assert_eq!(bad(&mut brakes, 0, 4), Weighed::GivenUp(vec![]));
    assert_eq!(bad(&mut brakes, 0, 5), Weighed::GivenUp(vec![]));
    assert_eq!(bad(&mut brakes, 1, 5), Weighed::GivenUp(vec![]));
    let expected = Stopped { first: Offset(4), at: Offset(6), code: Code::MissingField, bad: 3, rule: Rule::run(3), since: UnixMillis(7) };
    assert_eq!(bad(&mut brakes, 0, 6), Weighed::Stops(vec![], expected.clone(), vec![4, 5, 6]));
    assert!(brakes.has_stopped(&partition(0)) && !brakes.has_stopped(&partition(1)));
    assert_eq!(board.partitions(), [(partition(0), Some(expected)), (partition(1), None)]);
    assert_eq!(brakes.good(&at(1, 6)), [5]);
    assert_eq!(brakes.next_due(), None, "nothing of one that is stopped is held in memory");
}

#[test]
fn it_is_let_go_on_by_an_order_that_means_this_stop() {
    let (mut brakes, board) = brakes(1);
    assert_eq!(release(&board, 0, None), Err(NotReleased::NotStopped));
    assert_eq!(release(&board, 9, None), Err(NotReleased::NotHere));
    assert!(matches!(bad(&mut brakes, 0, 6), Weighed::Stops(..)));
    assert_eq!(release(&board, 0, Some(3)), Ok(Offset(6)), "at least those that are held");
    assert_eq!(brakes.ready(), []);
    assert_eq!(brakes.take_orders().len(), 1);
    assert_eq!(brakes.ready(), [partition(0)]);
    brakes.asked(&partition(0));
    assert_eq!(brakes.ready(), []);
    // Another partition came meanwhile: the question may not have been heard.
    assert!(!brakes.came(&[Assignment::fresh(partition(2))]));
    assert_eq!(brakes.ready(), [partition(0)]);
    brakes.asked(&partition(0));
    assert!(brakes.came(&[Assignment::fresh(partition(0))]));
    assert_eq!(board.stopped(), []);
    assert_eq!(bad(&mut brakes, 0, 6), Weighed::GivenUp(vec![6]));
    assert!(matches!(bad(&mut brakes, 0, 7), Weighed::Stops(..)), "weighed anew");
    // An order from before it went and came means another stop.
    assert_eq!(release(&board, 0, None), Ok(Offset(7)));
    brakes.gone(&[partition(0)]);
    assert!(!brakes.came(&[Assignment::fresh(partition(0))]));
    assert!(matches!(bad(&mut brakes, 0, 6), Weighed::Stops(..)));
    assert_eq!((brakes.take_orders(), brakes.ready()), (vec![], vec![]));
}

#[test]
fn what_is_held_of_a_partition_that_goes_is_let_go() {
    let (mut brakes, board) = brakes(3);
    bad(&mut brakes, 0, 4);
    bad(&mut brakes, 1, 4);
    assert_eq!(brakes.let_go(|leaves| *leaves == partition(0)), [4]);
    brakes.gone(&[partition(0)]);
    assert_eq!(board.partitions(), [(partition(1), None)]);
    assert_eq!(brakes.due(Tick(10_000)), [4], "of the other");
}

#[test]
fn where_nothing_is_bad_nothing_is_remembered() {
    let (mut brakes, _) = brakes(3);
    assert!(brakes.good(&at(0, 1)).is_empty());
    assert!(brakes.are_at_rest());
    bad(&mut brakes, 0, 4);
    assert!(!brakes.are_at_rest());
    assert_eq!(brakes.good(&at(0, 5)), [4]);
    assert!(brakes.are_at_rest());
    brakes.skipped(&at(0, 6));
    brakes.good(&at(0, 7));
    assert!(brakes.are_at_rest());
}

#[test]
fn without_settings_every_bad_record_is_given_up_at_once() {
    let mut brakes = Brakes::new(None, Arc::default());
    for offset in 0..1_000 {
        assert_eq!(bad(&mut brakes, 0, offset), Weighed::GivenUp(vec![offset]));
    }
    assert!(brakes.are_at_rest() && brakes.next_due().is_none());
}
