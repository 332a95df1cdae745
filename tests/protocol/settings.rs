//! Changed settings as a model: what instances know of them is the program's own [`Standing`]; `pipeline::tuning::tune` and the keeper's
//! reconciling are done step by step, as they do it. Where they wait for the store, anything may happen in between.

use std::sync::Mutex;
use std::time::Instant;

use fusebox::event::UnixMillis;
use fusebox::pipeline::tuning::{Chosen, Meeting, Standing, Tuning};
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::instance::Reply;
use super::shared::Shared;
use super::store::{Change, Keys, Slot, Without};

/// What is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// The store takes a change over any revision.
    NoRevision,
    /// A number may be given out twice: what was given out is forgotten with what it was for.
    NumbersAgain,
    /// What the store has lost stays lost.
    PutsNothingBack,
    /// The higher number stands, also where it was made before the store was emptied.
    HighestStands,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Budget {
    changes: u8,
    polls: u8,
    outages: u8,
    flushes: u8,
    crashes: u8,
    losses: u8,
}

#[derive(Debug)]
struct Rules {
    budget: Budget,
    mutant: Mutant,
    /// Changes that the first instance has made before the other one starts.
    before: u8,
    at_rest: Mutex<std::collections::HashMap<Fleet, bool>>,
}

/// Where whoever asks the store is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Doing {
    Nothing,
    Loading { reply: Reply<Option<Change>> },
    Saving { known: Box<Known>, change: Box<Change>, reply: Reply<Option<Option<Change>>> },
}

/// A [`Standing`], with times of Redis' clock for ages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Known {
    last: Option<Change>,
    unsaved_over: Option<u64>,
    numbered: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    name: &'static str,
    known: Known,
    /// An operator's change under way; the word is its text.
    tuning: Doing,
    /// The keeper.
    keeping: Doing,
    inbox: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Fleet {
    now: i64,
    keys: Shared<Keys>,
    away: bool,
    hosts: [(u8, Option<Process>); 2],
    left: Budget,
    ghost: Ghost,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Ghost {
    fault: Option<&'static str>,
    /// Who was told that a change is made, and has not been told otherwise.
    promised: Vec<Change>,
    /// What another change was laid over, or was told to be lost.
    settled: Vec<Change>,
    given: Vec<(u64, String, i64)>,
    flushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Change(u8),
    GoOn(u8),
    LoseTuning(u8),
    Poll(u8),
    Keep(u8),
    LosePoll(u8),
    Hear(u8, u8),
    Crash(u8),
    Restart(u8),
    Away,
    Back,
    Flush,
}

/// A change whose age is a time.
fn tuning(change: &Change) -> Tuning {
    let Change { revision, actor, reason, age, instance, .. } = change.clone();
    Tuning { revision, chosen: Chosen::Configured, actor, reason, at: UnixMillis(age), instance }
}

impl Known {
    fn standing(&self) -> Standing {
        Standing { tuning: self.last.as_ref().map(tuning), unsaved_over: self.unsaved_over, numbered: self.numbered }
    }
}

fn is(one: &Change, other: &Change) -> bool {
    tuning(one).is(&tuning(other))
}

impl Ghost {
    /// Nobody is owed it any more.
    fn settle(&mut self, change: &Change) {
        self.promised.retain(|promised| !is(promised, change));
        self.settled.push(change.clone());
    }
}

impl Fleet {
    fn load(&self) -> Reply<Option<Change>> {
        if self.away { Reply::Lost } else { Reply::Heard(self.stored()) }
    }

    fn stored(&self) -> Option<Change> {
        Keys::change(&self.keys, self.now).map(|change| Change { age: self.now - change.age, ..change })
    }

    fn save(&mut self, rules: &Rules, host: usize, change: &Change, over: u64) -> Reply<Option<Option<Change>>> {
        if self.away {
            return Reply::Lost;
        }
        let without = Without { revision: rules.mutant == Mutant::NoRevision, ..Without::default() };
        let (now, before) = (self.now, self.stored());
        let sent = Change { age: now - change.age, ..change.clone() };
        let found = self.keys.change(|keys| keys.save_change(now, &sent, over, without));
        if found.is_none() {
            if before.is_some_and(|before| before.revision >= change.revision) {
                self.ghost.fault.get_or_insert("revisions never go back");
            }
            for (other, (_, process)) in self.hosts.iter_mut().enumerate() {
                if let Some(process) = process.as_mut().filter(|_| other != host) {
                    process.inbox = vec![change.clone()];
                }
            }
        }
        Reply::Heard(found.map(|stored| stored.map(|stored| Change { age: now - stored.age, ..stored })))
    }

    fn process(&mut self, host: usize) -> &mut Process {
        self.hosts[host].1.as_mut().expect("it runs")
    }

    /// `Breakers::take_up`.
    fn take_up(&mut self, host: usize, stored: &Change) {
        self.take_up_as(host, stored, Standing::meet);
    }

    /// `Breakers::take_up_found`.
    fn take_up_found(&mut self, rules: &Rules, host: usize, stored: &Change) {
        self.take_up_as(host, stored, if rules.mutant == Mutant::HighestStands { Standing::meet } else { Standing::find });
    }

    fn take_up_as(&mut self, host: usize, stored: &Change, to: fn(&Standing, &Tuning) -> Meeting) {
        let known = &mut self.process(host).known;
        let meeting = to(&known.standing(), &tuning(stored));
        if meeting == Meeting::Known {
            return;
        }
        let lost = known.last.replace(stored.clone()).filter(|_| meeting == Meeting::Superseding);
        known.unsaved_over = None;
        if let Some(lost) = lost {
            self.ghost.settle(&lost);
        }
    }

    /// `Breakers::tune`.
    fn go_by(&mut self, host: usize, over: &Known, change: &Change, unsaved_over: Option<u64>) -> bool {
        let known = &mut self.process(host).known;
        let fits = known.standing().is_at(&over.standing());
        if fits {
            known.last = Some(change.clone());
            known.unsaved_over = unsaved_over;
        }
        fits
    }

    /// A change was made by somebody who knew of this.
    fn lay_over(&mut self, known: &Known) {
        if let Some(last) = &known.last {
            self.ghost.settle(last);
        }
    }

    /// It is made, and its maker told so.
    fn promise(&mut self, change: &Change) {
        if !self.ghost.settled.iter().any(|settled| is(settled, change)) {
            self.ghost.promised.push(change.clone());
        }
    }

    /// `tune`, to where it waits for the store again.
    fn tune(&mut self, rules: &Rules, host: usize) {
        match std::mem::replace(&mut self.process(host).tuning, Doing::Nothing) {
            Doing::Nothing => self.process(host).tuning = Doing::Loading { reply: self.load() },
            Doing::Loading { reply } => {
                if let Reply::Heard(Some(stored)) = &reply {
                    self.take_up_found(rules, host, stored);
                }
                let now = self.now;
                let process = self.process(host);
                let known = process.known.clone();
                let revision = known.last.as_ref().map_or(0, |last| last.revision);
                let numbered = if rules.mutant == Mutant::NumbersAgain { 0 } else { known.numbered };
                process.known.numbered = numbered.max(revision) + 1;
                let change = Change {
                    revision: process.known.numbered,
                    settings: String::new(),
                    actor: format!("at {now}"),
                    reason: String::new(),
                    instance: process.name.to_owned(),
                    age: now,
                };
                let name = (change.revision, change.instance.clone());
                if self.ghost.given.iter().any(|(revision, instance, at)| (*revision, instance) == (name.0, &name.1) && *at != now) {
                    self.ghost.fault.get_or_insert("a revision and its instance name one change");
                }
                self.ghost.given.push((name.0, name.1, now));
                match reply {
                    Reply::Heard(stored) => {
                        let over = stored.map_or(0, |stored| stored.revision);
                        let reply = self.save(rules, host, &change, over);
                        if reply == Reply::Heard(None) {
                            self.lay_over(&known);
                        }
                        self.process(host).tuning = Doing::Saving { known: Box::new(known), change: Box::new(change), reply };
                    }
                    Reply::Lost => self.make(host, &known, &change),
                }
            }
            Doing::Saving { known, change, reply, .. } => match reply {
                Reply::Heard(None) => {
                    if !self.go_by(host, &known, &change, None) {
                        self.take_up(host, &change);
                    }
                    self.promise(&change);
                }
                Reply::Heard(Some(stored)) => {
                    if let Some(stored) = stored {
                        self.take_up(host, &stored);
                    }
                }
                Reply::Lost => self.make(host, &known, &change),
            },
        }
    }

    /// Makes a change without the store.
    fn make(&mut self, host: usize, known: &Known, change: &Change) {
        let over = known.unsaved_over.unwrap_or(known.last.as_ref().map_or(0, |last| last.revision));
        if self.go_by(host, known, change, Some(over)) {
            self.lay_over(known);
            self.promise(change);
        }
    }

    /// The keeper's `reconcile_tunings`, to where it waits for the store again.
    fn keep(&mut self, rules: &Rules, host: usize) {
        match std::mem::replace(&mut self.process(host).keeping, Doing::Nothing) {
            Doing::Nothing => self.process(host).keeping = Doing::Loading { reply: self.load() },
            Doing::Loading { reply: Reply::Lost } | Doing::Saving { reply: Reply::Lost, .. } => {}
            Doing::Loading { reply: Reply::Heard(stored) } => {
                if let Some(stored) = &stored {
                    self.take_up_found(rules, host, stored);
                }
                let over = stored.map_or(0, |stored| stored.revision);
                let known = self.process(host).known.clone();
                let Some(ours) = known.last.clone().filter(|ours| ours.revision > over) else { return };
                if rules.mutant != Mutant::PutsNothingBack {
                    let reply = self.save(rules, host, &ours, over);
                    self.process(host).keeping = Doing::Saving { known: Box::new(known), change: Box::new(ours), reply };
                }
            }
            Doing::Saving { change, reply: Reply::Heard(None), .. } => {
                let known = &mut self.process(host).known;
                let mut standing = known.standing();
                standing.note_saved(&tuning(&change));
                known.unsaved_over = standing.unsaved_over;
            }
            Doing::Saving { reply: Reply::Heard(Some(stored)), .. } => {
                if let Some(stored) = stored {
                    self.take_up(host, &stored);
                }
            }
        }
    }

    /// What nobody knows of is owed to nobody.
    fn forget(&mut self) {
        let stored = self.stored();
        let known: Vec<Change> =
            stored.into_iter().chain(self.hosts.iter().filter_map(|(_, process)| process.as_ref()?.known.last.clone())).collect();
        self.ghost.promised.retain(|promised| known.iter().any(|known| is(known, promised)));
    }

    fn start(&mut self, rules: &Rules, host: usize) {
        const NAMES: [[&str; 2]; 2] = [["a", "a2"], ["b", "b2"]];
        let (lives, process) = &mut self.hosts[host];
        let name = NAMES[host][usize::from(*lives).min(1)];
        *lives += 1;
        *process = Some(Process { name, known: Known::default(), tuning: Doing::Nothing, keeping: Doing::Nothing, inbox: Vec::new() });
        self.poll(rules, host);
    }

    fn poll(&mut self, rules: &Rules, host: usize) {
        self.keep(rules, host);
        while self.process(host).keeping != Doing::Nothing {
            self.keep(rules, host);
        }
    }

    /// Whether everybody comes to go by what is stored, and nothing that was promised is gone without a word.
    fn comes_to_agree(&self, rules: &Rules) -> bool {
        let mut fleet = Self { left: Budget::default(), away: false, ..self.clone() };
        if let Some(known) = rules.at_rest.lock().expect("whole").get(&fleet) {
            return *known;
        }
        let key = fleet.clone();
        for host in 0..2 {
            while fleet.hosts[host].1.as_ref().is_some_and(|process| process.tuning != Doing::Nothing) {
                fleet.tune(rules, host);
            }
        }
        for _ in 0..3 {
            for host in 0..2 {
                if fleet.hosts[host].1.is_some() {
                    while fleet.process(host).keeping != Doing::Nothing {
                        fleet.keep(rules, host);
                    }
                    fleet.poll(rules, host);
                }
            }
        }
        let stored = fleet.stored();
        let same = |known: &Known| match (&known.last, &stored) {
            (Some(ours), Some(stored)) => is(ours, stored) && known.unsaved_over.is_none(),
            (ours, stored) => ours.is_none() && stored.is_none(),
        };
        let agree = fleet.hosts.iter().filter_map(|(_, process)| process.as_ref()).all(|process| same(&process.known));
        let kept = fleet.ghost.promised.iter().all(|promised| stored.as_ref().is_some_and(|stored| is(promised, stored)));
        rules.at_rest.lock().expect("whole").insert(key, agree && kept);
        agree && kept
    }
}

impl Model for Rules {
    type State = Fleet;
    type Action = Action;

    fn init_states(&self) -> Vec<Fleet> {
        let hosts = [(0, None), (0, None)];
        let mut fleet = Fleet { now: 1_000, keys: Shared::default(), away: false, hosts, left: self.budget, ghost: Ghost::default() };
        fleet.start(self, 0);
        for _ in 0..self.before {
            fleet.now += 1;
            for _ in 0..3 {
                fleet.tune(self, 0);
            }
        }
        if self.before == 0 {
            fleet.start(self, 1);
        }
        vec![fleet]
    }

    fn actions(&self, fleet: &Fleet, actions: &mut Vec<Action>) {
        let left = fleet.left;
        for (host, (_, process)) in (0..).zip(&fleet.hosts) {
            let Some(process) = process else {
                actions.push(Action::Restart(host));
                continue;
            };
            let waits = |doing: &Doing| {
                matches!(doing, Doing::Loading { reply: Reply::Heard(_) }) || matches!(doing, Doing::Saving { reply: Reply::Heard(_), .. })
            };
            if process.tuning != Doing::Nothing {
                actions.push(Action::GoOn(host));
            } else if left.changes > 0 {
                actions.push(Action::Change(host));
            }
            if process.keeping != Doing::Nothing {
                actions.push(Action::Keep(host));
            } else if left.polls > 0 {
                actions.push(Action::Poll(host));
            }
            if left.losses > 0 && waits(&process.tuning) {
                actions.push(Action::LoseTuning(host));
            }
            if left.losses > 0 && waits(&process.keeping) {
                actions.push(Action::LosePoll(host));
            }
            actions.extend((0..).zip(&process.inbox).map(|(message, _)| Action::Hear(host, message)));
            if left.crashes > 0 {
                actions.push(Action::Crash(host));
            }
        }
        if fleet.away {
            actions.push(Action::Back);
        } else if left.outages > 0 {
            actions.push(Action::Away);
        }
        if left.flushes > 0 && !fleet.away && fleet.keys.breaker != Slot::None {
            actions.push(Action::Flush);
        }
    }

    fn next_state(&self, fleet: &Fleet, action: Action) -> Option<Fleet> {
        let mut next = fleet.clone();
        let left = &mut next.left;
        match action {
            Action::Change(host) => {
                left.changes -= 1;
                next.now += 1;
                next.tune(self, host.into());
            }
            Action::GoOn(host) => next.tune(self, host.into()),
            Action::Poll(host) => {
                left.polls -= 1;
                next.keep(self, host.into());
            }
            Action::Keep(host) => next.keep(self, host.into()),
            Action::LoseTuning(host) => {
                left.losses -= 1;
                lose(&mut next.process(host.into()).tuning);
            }
            Action::LosePoll(host) => {
                left.losses -= 1;
                lose(&mut next.process(host.into()).keeping);
            }
            Action::Hear(host, message) => {
                let heard = next.process(host.into()).inbox.remove(message.into());
                next.take_up(host.into(), &heard);
            }
            Action::Crash(host) => {
                left.crashes -= 1;
                next.hosts[usize::from(host)].1 = None;
                next.forget();
            }
            Action::Restart(host) => next.start(self, host.into()),
            Action::Away => {
                left.outages -= 1;
                next.away = true;
            }
            Action::Back => next.away = false,
            Action::Flush => {
                left.flushes -= 1;
                next.keys = Shared::default();
                next.ghost.flushed = true;
                next.forget();
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREE, |rules: &Self, fleet: &Fleet| fleet.comes_to_agree(rules)),
            Property::always(BACK, |_, fleet: &Fleet| fleet.ghost.fault != Some(BACK)),
            Property::always(NAMES, |_, fleet: &Fleet| fleet.ghost.fault != Some(NAMES)),
        ]
    }
}

const AGREE: &str = "everybody comes to go by what is stored, and no change is lost unsaid";
const BACK: &str = "revisions never go back";
const NAMES: &str = "a revision and its instance name one change";

fn lose(doing: &mut Doing) {
    match doing {
        Doing::Nothing => {}
        Doing::Loading { reply } => *reply = Reply::Lost,
        Doing::Saving { reply, .. } => *reply = Reply::Lost,
    }
}

fn rules(budget: Budget) -> Rules {
    Rules { budget, mutant: Mutant::None, before: 0, at_rest: Mutex::default() }
}

fn changes() -> Rules {
    rules(Budget { changes: 2, polls: 1, outages: 1, losses: 1, ..Budget::default() })
}

fn many_changes() -> Rules {
    rules(Budget { changes: 4, outages: 1, ..Budget::default() })
}

/// One starts when the store has lost what the other one knows.
fn started_anew() -> Rules {
    Rules { before: 2, ..rules(Budget { changes: 2, polls: 2, flushes: 1, ..Budget::default() }) }
}

fn emptied() -> Rules {
    rules(Budget { changes: 2, polls: 1, flushes: 1, crashes: 1, ..Budget::default() })
}

#[test]
fn changes_of_settings_keep_to_the_protocol() {
    for (name, rules) in
        [("changes", changes()), ("many changes", many_changes()), ("emptied", emptied()), ("started anew", started_anew())]
    {
        let from = Instant::now();
        let checker = rules.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{name}: {} states, to depth {}, in {:.1?}", checker.unique_state_count(), checker.max_depth(), from.elapsed());
        let broken: Vec<String> = checker
            .discoveries()
            .into_iter()
            .map(|(property, path)| format!("{property}: {:?}\n{:#?}", path.clone().into_actions(), path.last_state()))
            .collect();
        assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
    }
}

#[test]
fn what_is_left_out_of_changes_is_told() {
    let cases: [(Mutant, fn() -> Rules, &str); 4] = [
        (Mutant::NoRevision, changes, BACK),
        (Mutant::NumbersAgain, many_changes, NAMES),
        (Mutant::PutsNothingBack, emptied, AGREE),
        (Mutant::HighestStands, started_anew, AGREE),
    ];
    for (mutant, rules, property) in cases {
        let told = HasDiscoveries::AnyOf([property].into());
        let checker = Rules { mutant, ..rules() }.checker().threads(2).finish_when(told).spawn_bfs().join();
        let steps = checker.discovery(property).map(|path| path.into_actions());
        println!("{mutant:?}: {property}: {} states, {steps:?}", checker.unique_state_count());
        assert!(steps.is_some(), "{mutant:?} breaks nothing: {:?}", checker.discoveries().keys());
    }
}
