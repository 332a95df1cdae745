//! Instances that come and go.

use std::time::Instant;

use crate::harness::{Instance, World};

/// The instances of a world, each in a place of its own.
pub struct Fleet<'a> {
    world: &'a World,
    /// The flags of the instance in this place.
    flags: Box<dyn Fn(usize) -> Vec<String> + 'a>,
    places: Vec<Option<Instance>>,
    from: Instant,
}

impl<'a> Fleet<'a> {
    /// With an instance in each of so many places.
    pub fn start(world: &'a World, places: usize, flags: impl Fn(usize) -> Vec<String> + 'a) -> Self {
        let mut fleet = Self { world, flags: Box::new(flags), places: (0..places).map(|_| None).collect(), from: Instant::now() };
        for place in 0..places {
            fleet.join(place);
        }
        for instance in fleet.places.iter().flatten() {
            instance.wait_ready();
        }
        fleet
    }

    /// Says what happens, so that a failure can be read.
    pub fn say(&self, what: &str) {
        println!("  {:6.1}s {what}", self.from.elapsed().as_secs_f64());
    }

    /// Starts an instance in this place, and waits until its API answers.
    pub fn join(&mut self, place: usize) {
        let flags = (self.flags)(place);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.places[place] = Some(self.world.spawn(&flags));
        self.say(&format!("{place} joined"));
    }

    /// One more place, empty.
    pub fn another_place(&mut self) -> usize {
        self.places.push(None);
        self.places.len() - 1
    }

    /// SIGKILL.
    pub fn kill(&mut self, place: usize) {
        self.say(&format!("{place} is killed"));
        self.places[place].take().expect("it runs").kill();
    }

    /// SIGTERM; it must end with 0.
    #[track_caller]
    pub fn stop(&mut self, place: usize) {
        self.say(&format!("{place} is stopped"));
        let mut instance = self.places[place].take().expect("it runs");
        assert_eq!(instance.stop(), 0, "a stop is clean:\n{}", instance.log());
        self.say(&format!("{place} has stopped"));
    }

    /// SIGTERM for several at once; each must end with 0.
    #[track_caller]
    pub fn stop_together(&mut self, places: &[usize]) {
        self.say(&format!("{places:?} are stopped"));
        for place in places {
            self.instance(*place).signal("TERM");
        }
        for place in places {
            let mut instance = self.places[*place].take().expect("it runs");
            assert_eq!(instance.wait_exit(crate::harness::DEADLINE), 0, "a stop is clean:\n{}", instance.log());
        }
    }

    /// The instance in this place.
    pub fn instance(&self, place: usize) -> &Instance {
        self.places[place].as_ref().expect("it runs")
    }

    /// The places with an instance.
    pub fn running(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.places[*place].is_some()).collect()
    }

    /// The places without.
    pub fn empty(&self) -> Vec<usize> {
        (0..self.places.len()).filter(|place| self.places[*place].is_none()).collect()
    }

    /// The instances that have ended by themselves, with their logs.
    pub fn ended(&mut self) -> Vec<(usize, i32)> {
        let ended = self.places.iter_mut().enumerate().filter_map(|(place, instance)| Some((place, instance.as_mut()?.exited()?)));
        ended.collect()
    }
}
