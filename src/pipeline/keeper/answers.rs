//! Nodes of the store that answer, and those that do not: these are asked for one service each, beside all else, until they do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::health::StoreState;
use super::{Keeper, Store, StoreError, World};

/// What came of asking a service's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Answers {
    /// It has not failed since it last answered.
    Well,
    /// It did not take what there was to store. It may still be read.
    TakesNothing,
    /// It could not be read, or is to be asked first whether it answers.
    Silent,
}

/// The same of all services.
#[derive(Debug)]
pub(super) struct NodeAnswers {
    services: Vec<Answers>,
    /// For which of them their nodes are asked now.
    asked: BTreeSet<usize>,
    /// How often nodes were asked anew: each time for another service, should one of them be what fails.
    times: usize,
}

impl NodeAnswers {
    pub(super) fn new(services: usize) -> Self {
        Self { services: vec![Answers::Well; services], asked: BTreeSet::new(), times: 0 }
    }

    pub(super) fn are_well(&self, service: usize) -> bool {
        self.services[service] == Answers::Well
    }

    pub(super) fn are_silent(&self, service: usize) -> bool {
        self.services[service] == Answers::Silent
    }
}

impl<W: World, S: Store> Keeper<W, S> {
    /// Nodes that have failed are to be asked whether they answer before anything else: each question for one of its services, but of those that are
    /// asked already.
    pub(super) fn ask_anew(&mut self) -> Vec<impl Future<Output = (usize, Result<(), StoreError>)> + use<W, S>> {
        let mut nodes = BTreeMap::<usize, Vec<usize>>::new();
        for (service, answers) in self.answers.services.iter_mut().enumerate().filter(|(_, answers)| **answers != Answers::Well) {
            *answers = Answers::Silent;
            nodes.entry(self.store.node(&self.names[service])).or_default().push(service);
        }
        nodes.retain(|_, services| services.iter().all(|service| !self.answers.asked.contains(service)));
        self.answers.times = self.answers.times.wrapping_add(1);
        let chosen: Vec<usize> = nodes.values().map(|services| services[self.answers.times % services.len()]).collect();
        self.answers.asked.extend(&chosen);
        chosen.into_iter().map(|service| ask(Arc::clone(&self.store), service, self.names[service].clone())).collect()
    }

    /// What came of asking a node for a service. What waits for it is stored before anything of it is taken up.
    pub(super) async fn hear_of_node(&mut self, service: usize, answer: Result<(), StoreError>) {
        self.answers.asked.remove(&service);
        if let Err(error) = answer {
            return self.failed(&[(service, error)], Answers::Silent);
        }
        let node = self.store.node(&self.names[service]);
        let is_of_it = |service: &usize| self.answers.are_silent(*service) && self.store.node(&self.names[*service]) == node;
        let services: BTreeSet<usize> = (0..self.names.len()).filter(is_of_it).collect();
        services.iter().for_each(|service| self.answers.services[*service] = Answers::Well);
        self.unsaved.retry(&services);
        self.catch_up().await;
        self.rounds.answer(&services, self.answers.are_well(service));
    }

    /// Notes what came of services whose nodes have failed: so have the nodes' others, which are not asked now. What they have missed may be
    /// anything.
    pub(super) fn failed(&mut self, failures: &[(usize, StoreError)], answers: Answers) {
        let Some((_, StoreError(error))) = failures.first() else { return };
        let nodes: Vec<usize> = self.names.iter().map(|name| self.store.node(name)).collect();
        let failed: BTreeSet<usize> = failures.iter().map(|(service, _)| nodes[*service]).collect();
        for (service, _) in nodes.iter().enumerate().filter(|(_, node)| failed.contains(node)) {
            let known = &mut self.answers.services[service];
            *known = (*known).max(answers);
            self.rounds.failed(service);
        }
        let is_away = |service: usize| !self.answers.are_well(service);
        self.unsaved.set_aside(is_away);
        let away: BTreeSet<usize> = (0..nodes.len()).filter(|service| is_away(*service)).map(|service| nodes[service]).collect();
        let all: BTreeSet<usize> = nodes.iter().copied().collect();
        let which = if all.len() > 1 { format!("{} of {} nodes: ", away.len(), all.len()) } else { String::new() };
        self.note(StoreState::Down, &format!("{which}{error}"), |health, service| health.serves(service) && !is_away(service));
    }
}

/// Asks for a service. What is stored of it is of no use yet.
async fn ask<S: Store>(store: Arc<S>, service: usize, name: String) -> (usize, Result<(), StoreError>) {
    let answer = store.load(&[name]).await.pop();
    (service, answer.map_or(Ok(()), |answer| answer.map(drop)))
}
