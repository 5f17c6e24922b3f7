//! What is wrong with the hub right now, in words for the person at the host. Whoever shows it
//! looks here, also while the driver waits for its disk.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

/// Another program holds the database.
pub(crate) const DATABASE_LOCKED: &str = "database_locked";
/// There is no room for the database.
pub(crate) const DATABASE_FULL: &str = "database_full";
/// The database was damaged and made anew. It stays for this run of the hub: the person has to
/// know.
pub(crate) const DATABASE_REBUILT: &str = "database_rebuilt";
/// The second copy of the decisions cannot be written.
pub(crate) const ROSTER_COPY: &str = "roster_copy";
/// The record of decisions cannot be written.
pub(crate) const RECORD: &str = "record";

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActiveProblem {
    /// Stable; there is one problem of a code at a time.
    pub code: &'static str,
    pub what: String,
    /// Advice for the person at the host.
    pub advice: String,
    pub since_ms: u64,
}

/// As the console and a command are told of it.
impl From<ActiveProblem> for lanyard_protocol::message::Problem {
    fn from(problem: ActiveProblem) -> Self {
        let ActiveProblem { code, what, advice, since_ms } = problem;
        Self { code: code.into(), what, advice, since_ms }
    }
}

/// All that is wrong, the oldest first. Clones are one list.
#[derive(Debug, Clone)]
pub(crate) struct ProblemList(Arc<watch::Sender<Vec<ActiveProblem>>>);

impl Default for ProblemList {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }
}

impl ProblemList {
    /// Says it in the log once; one that is there already keeps its beginning.
    pub(crate) fn raise(&self, problem: ActiveProblem) {
        self.0.send_if_modified(|all| {
            match all.iter_mut().find(|known| known.code == problem.code) {
                Some(known) => {
                    let problem = ActiveProblem { since_ms: known.since_ms, ..problem };
                    std::mem::replace(known, problem.clone()) != problem
                }
                None => {
                    tracing::warn!(code = problem.code, "{} {}", problem.what, problem.advice);
                    all.push(problem);
                    true
                }
            }
        });
    }

    /// It is over.
    pub(crate) fn clear(&self, code: &str) {
        self.0.send_if_modified(|all| {
            let Some(place) = all.iter().position(|problem| problem.code == code) else {
                return false;
            };
            let problem = all.remove(place);
            tracing::warn!(code, "over: {}", problem.what);
            true
        });
    }

    pub(crate) fn all(&self) -> Vec<ActiveProblem> {
        self.0.borrow().clone()
    }

    /// Shows the list whenever it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<ActiveProblem>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_there_once_from_its_beginning_to_its_end() {
        let problem = |what: &str, since_ms| ActiveProblem {
            code: "x",
            what: what.into(),
            advice: String::new(),
            since_ms,
        };
        let problems = ProblemList::default();
        let mut watch = problems.watch();
        problems.raise(problem("a", 1));
        problems.raise(problem("b", 2));
        assert_eq!(problems.clone().all(), [problem("b", 1)]);
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        problems.raise(problem("b", 3));
        assert!(!watch.has_changed().unwrap(), "nothing new was said");
        problems.clear("x");
        problems.clear("x");
        assert!(problems.all().is_empty() && watch.has_changed().unwrap());
    }
}
