//! `explain`: asks the kernel for what the question is about, when somebody asks, and puts it beside the
//! plan. Blocking: for a thread that answers nobody else.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::admin::applied::is_whole;
use crate::admin::protocol::{Arguments, EXPLAIN_ARGUMENTS};
use crate::admin::snapshot::Snapshot;
use crate::apply::forwarder::Forwarder;
use crate::apply::inspect::{Wanted, inspect};
use crate::explain::question::{Question, QuestionError};
use crate::explain::report::Explanation;
use crate::explain::{Facts, Source, Unapplied, explain, locate};
use crate::model::node_state::NodeState;
use crate::model::observation::Observation;

/// Looks at a kernel that is not as planned: a pass may be under way, which is told only when it ends.
const LOOKS: usize = 2;
/// The pause between them; somebody else's edit is repaired within a tenth of a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Answers a question from the newest snapshot and the kernel.
pub fn answer(
    arguments: &Arguments,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) -> Result<Explanation, QuestionError> {
    let [target, from] = EXPLAIN_ARGUMENTS.map(|name| arguments.get(name).map(String::as_str));
    let question = Question::parse(target.unwrap_or_default(), from)?;
    let look = || {
        let snapshot = Arc::clone(&snapshots.borrow());
        from_snapshot(&question, &snapshot, SystemTime::now(), inspect)
    };
    let mut explanation = look();
    for _ in 1..LOOKS {
        if explanation.differences.is_empty() {
            break;
        }
        thread::sleep(PAUSE);
        explanation = look();
    }
    Ok(explanation)
}

/// Answers from one snapshot, with the kernel as `read` finds it.
pub fn from_snapshot(
    question: &Question,
    snapshot: &Snapshot,
    now: SystemTime,
    read: impl FnOnce(Forwarder, &NodeState, &Wanted) -> Observation,
) -> Explanation {
    let failures: Vec<Unapplied> = (snapshot.pass.failures.iter())
        .map(|failure| Unapplied {
            object: failure.object.clone(),
            message: failure.message.clone(),
            whole: is_whole(failure),
        })
        .collect();
    let problems: Vec<String> = (snapshot.source.problems.iter())
        .map(|problem| {
            let line = problem.line.map(|line| format!(":{line}"));
            let field = problem.field.as_ref().map(|field| format!("{field}: "));
            format!(
                "{}{}: {}{}",
                problem.file,
                line.unwrap_or_default(),
                field.unwrap_or_default(),
                problem.message
            )
        })
        .collect();
    let facts = Facts {
        config: &snapshot.config,
        inputs: &snapshot.inputs,
        plan: &snapshot.plan,
        datapath: snapshot.datapath,
        ready: snapshot.ready,
        failures: &failures,
        source: Source {
            connected: snapshot.source.connected,
            blind: (snapshot.source.blind_since).and_then(|since| now.duration_since(since).ok()),
            ignored: &snapshot.source.ignored,
            problems: &problems,
        },
    };
    let located = locate(question, &facts);
    let datapath = match snapshot.datapath {
        "ipvs" => Forwarder::Ipvs,
        _ => Forwarder::Nftables,
    };
    let wanted = Wanted {
        frontends: located.frontends(&facts),
        from: question.from,
        paths: located.paths(question, &facts),
    };
    let observation = if wanted.frontends.is_empty() {
        Observation::default()
    } else {
        read(datapath, &snapshot.plan.state, &wanted)
    };
    explain(question, &facts, &located, &observation)
}
