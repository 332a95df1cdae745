//! The names of the keys. Those of one service carry one hash tag, `{service}`, so that a Redis Cluster keeps them in one slot and one
//! script may touch them all.

/// The names of one deployment's keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
    database: i64,
}

impl Keys {
    /// Names that begin with `prefix`, in a database.
    pub(super) fn new(prefix: &str, database: i64) -> Self {
        Self { prefix: prefix.to_owned(), database }
    }

    /// A breaker's state: a hash.
    pub(super) fn breaker(&self, service: &str) -> String {
        format!("{}:{{{service}}}:breaker", self.prefix)
    }

    /// A breaker's transitions: a stream.
    pub(super) fn history(&self, service: &str) -> String {
        format!("{}:{{{service}}}:history", self.prefix)
    }

    /// The transitions that were one instance's alone: a stream.
    pub(super) fn notes(&self, service: &str) -> String {
        format!("{}:{{{service}}}:alone", self.prefix)
    }

    /// The leases on a breaker's probes: a sorted set.
    pub(super) fn probes(&self, service: &str) -> String {
        format!("{}:{{{service}}}:probes", self.prefix)
    }

    /// What instances say of a service: a hash.
    pub(super) fn window(&self, service: &str) -> String {
        format!("{}:{{{service}}}:window", self.prefix)
    }

    /// Who waits for one of them: a string.
    pub(super) fn waiting(&self, service: &str) -> String {
        format!("{}:{{{service}}}:waiting", self.prefix)
    }

    /// The channel of every breaker's transitions. It names the database, because Redis' channels know none: two deployments with the
    /// same prefix in two databases of one server would hear each other.
    pub(super) fn transitions(&self) -> String {
        format!("{}:transitions:{}", self.prefix, self.database)
    }

    /// The version of the layout, as `migrate` wrote it: a string.
    pub(super) fn layout(&self) -> String {
        format!("{}:layout", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_the_prefix_and_a_services_keys_its_tag() {
        let keys = Keys::new("fusebox", 3);
        assert_eq!(keys.breaker("rag"), "fusebox:{rag}:breaker");
        assert_eq!(keys.history("rag"), "fusebox:{rag}:history");
        assert_eq!(keys.notes("rag"), "fusebox:{rag}:alone");
        assert_eq!(keys.probes("rag"), "fusebox:{rag}:probes");
        assert_eq!(keys.waiting("rag"), "fusebox:{rag}:waiting");
        assert_eq!(keys.window("rag"), "fusebox:{rag}:window");
        assert_eq!(keys.transitions(), "fusebox:transitions:3");
        assert_eq!(keys.layout(), "fusebox:layout");
    }
}
