//! Levels of statuses, the same in lists, search, watches and problems (section 7b of the contract). The first level that
//! applies of `bad`, `warn`, `progress`, `idle` and `ok` is the level of a row. Enums of statuses have a method `level`.

use std::time::Duration;

use jiff::Timestamp;

use crate::rows::{AgingLevel, Level};

/// Age above which a `Pending` object is not progressing.
const MAX_PENDING: Duration = Duration::from_secs(5 * 60);
/// Time after the end of the grace period above which a `Terminating` object is not progressing.
const MAX_TERMINATING: Duration = Duration::from_secs(10 * 60);
/// Time after the last restart for which repeated restarts of a pod count.
const RECENT_RESTART: Duration = Duration::from_secs(60 * 60);
/// Number of restarts that count as repeated.
pub(crate) const REPEATED_RESTARTS: i64 = 3;

/// Level of an object by its phase: a volume, a claim, a namespace, or any other object whose status is a phase.
pub fn of_phase(
    phase: Option<&str>,
    created_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
) -> AgingLevel {
    match phase {
        Some("Active" | "Available" | "Bound") => Level::Ok.into(),
        Some("Released") => Level::Idle.into(),
        Some("Failed" | "Lost") => Level::Bad.into(),
        Some("Pending") => pending(created_at),
        Some("Terminating") => terminating(deleted_at),
        _ => Level::Warn.into(),
    }
}

/// What decides the level of a pod.
#[derive(Clone, Copy, Debug)]
pub struct PodFacts<'a> {
    /// The status as kubectl prints it.
    pub status: &'a str,
    /// Whether the pod or all its containers are ready.
    pub is_ready: bool,
    /// Number of restarts of all containers.
    pub restarts: i64,
    /// Time of the last restart of a container.
    pub restarted_at: Option<Timestamp>,
    /// Creation time.
    pub created_at: Option<Timestamp>,
    /// End of the grace period of its deletion.
    pub deleted_at: Option<Timestamp>,
}

/// Level of a pod.
pub fn of_pod(pod: PodFacts<'_>) -> AgingLevel {
    let PodFacts { status, is_ready, restarts, restarted_at, created_at, deleted_at } = pod;
    let word = status.strip_prefix("Init:").unwrap_or(status);
    let by_word: AgingLevel = match word {
        "Running" if is_ready => Level::Ok.into(),
        "Completed" | "Succeeded" => Level::Idle.into(),
        // both are the phase `Pending`, in which the pod waits for the cluster
        "Pending" | "ContainerCreating" => pending(created_at),
        "Terminating" => terminating(deleted_at),
        "PodInitializing" | "SchedulingGated" => Level::Progress.into(),
        "CrashLoopBackOff" | "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "OOMKilled"
        | "StartError" | "Error" | "Failed" | "Evicted" => Level::Bad.into(),
        _ if word.starts_with("ExitCode:") || word.starts_with("Signal:") => Level::Bad.into(),
        _ if word.starts_with("Create") && word.ends_with("Error") => Level::Bad.into(),
        _ if is_count(word) => Level::Progress.into(),
        _ => Level::Warn.into(),
    };
    if restarts < REPEATED_RESTARTS || by_word.level >= Level::Warn {
        return by_word;
    }
    match restarted_at.and_then(|at| at.checked_add(RECENT_RESTART).ok()) {
        None => by_word,
        // a pod that also ages by its word stays as urgent as it is now
        Some(_) if by_word.next.is_some() => Level::Warn.into(),
        recent_until => AgingLevel::until(Level::Warn, recent_until, by_word.level),
    }
}

/// Whether a status is a number of finished init containers: `1/2`.
fn is_count(word: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    word.split_once('/').is_some_and(|(done, all)| is_number(done) && is_number(all))
}

/// Level of a node.
pub fn of_node(status: &str, is_cordoned: bool, has_pressure: bool) -> Level {
    match status {
        "NotReady" => Level::Bad,
        // a node that lacks memory, disk space or process ids evicts pods, and gets no new ones
        "Ready" if has_pressure => Level::Warn,
        "Ready" if is_cordoned => Level::Idle,
        "Ready" => Level::Ok,
        _ => Level::Warn,
    }
}

/// Level of an event, by its type.
pub fn of_event(r#type: &str) -> Level {
    if r#type == "Normal" { Level::Ok } else { Level::Warn }
}

fn pending(created_at: Option<Timestamp>) -> AgingLevel {
    let at = created_at.and_then(|at| at.checked_add(MAX_PENDING).ok());
    AgingLevel::until(Level::Progress, at, Level::Warn)
}

fn terminating(deleted_at: Option<Timestamp>) -> AgingLevel {
    let at = deleted_at.and_then(|at| at.checked_add(MAX_TERMINATING).ok());
    AgingLevel::until(Level::Progress, at, Level::Warn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(status: &str) -> PodFacts<'_> {
        PodFacts {
            status,
            is_ready: false,
            restarts: 0,
            restarted_at: None,
            created_at: None,
            deleted_at: None,
        }
    }

    #[test]
    fn level_of_a_pod_follows_from_its_status() {
        let cases = [
            (
                Level::Bad,
                "CrashLoopBackOff ImagePullBackOff ErrImagePull InvalidImageName OOMKilled CreateContainerConfigError \
                 CreateContainerError Error Failed Evicted StartError ExitCode:3 Signal:9 Init:CrashLoopBackOff Init:Error \
                 Init:ExitCode:1 Init:OOMKilled Init:ImagePullBackOff Init:CreateContainerConfigError",
            ),
            (
                Level::Warn,
                "Unknown NotReady Running NodeLost ContainerStatusUnknown Init:Unknown 1/x /1 Init:/ x",
            ),
            (
                Level::Progress,
                "Pending ContainerCreating Terminating PodInitializing SchedulingGated Init:0/2 Init:PodInitializing",
            ),
            (Level::Idle, "Completed Succeeded"),
        ];
        for (level, words) in cases {
            for word in words.split_whitespace() {
                assert_eq!(of_pod(pod(word)), level.into(), "{word}");
            }
        }
        assert_eq!(of_pod(PodFacts { is_ready: true, ..pod("Running") }), Level::Ok.into());
        assert_eq!(of_pod(pod("")), Level::Warn.into());
    }

    #[test]
    fn pending_and_terminating_objects_become_urgent_with_age() {
        let (created_at, deleted_at) = (Some(at(1000)), Some(at(2000)));
        let pod = |status| PodFacts { created_at, deleted_at, ..pod(status) };
        for (word, change) in [("Pending", 1300), ("ContainerCreating", 1300), ("Terminating", 2600)] {
            let level = of_pod(pod(word));
            assert_eq!(level, AgingLevel::until(Level::Progress, Some(at(change)), Level::Warn), "{word}");
            assert_eq!(level.at(at(change - 1)).level, Level::Progress);
            assert_eq!(level.at(at(change)).level, Level::Warn);
        }
        for (phase, change) in [("Pending", 1300), ("Terminating", 2600)] {
            let expected = AgingLevel::until(Level::Progress, Some(at(change)), Level::Warn);
            assert_eq!(of_phase(Some(phase), created_at, deleted_at), expected, "{phase}");
        }
        assert_eq!(of_pod(pod("SchedulingGated")).next, None);
        let end = PodFacts { created_at: Some(Timestamp::MAX), ..pod("Pending") };
        assert_eq!(of_pod(end), Level::Progress.into(), "a time beyond the last one never comes");
    }

    #[test]
    fn repeated_restarts_count_for_an_hour_after_the_last() {
        let restarted = |status, restarts| PodFacts { restarts, restarted_at: Some(at(1000)), ..pod(status) };
        let ready = |restarts| PodFacts { is_ready: true, ..restarted("Running", restarts) };
        assert_eq!(of_pod(ready(2)), Level::Ok.into());
        let level = of_pod(ready(3));
        assert_eq!(level, AgingLevel::until(Level::Warn, Some(at(4600)), Level::Ok));
        assert_eq!((level.at(at(4599)).level, level.at(at(4600)).level), (Level::Warn, Level::Ok));
        let cases = [
            (restarted("CrashLoopBackOff", 9), Level::Bad.into()),
            (restarted("Running", 9), Level::Warn.into()),
            (restarted("Init:0/1", 9), AgingLevel::until(Level::Warn, Some(at(4600)), Level::Progress)),
            (PodFacts { deleted_at: Some(at(1000)), ..restarted("Terminating", 9) }, Level::Warn.into()),
            (PodFacts { restarted_at: None, ..ready(9) }, Level::Ok.into()),
        ];
        for (pod, expected) in cases {
            assert_eq!(of_pod(pod), expected, "{pod:?}");
        }
    }

    #[test]
    fn level_of_other_objects_follows_from_their_status() {
        let phase = |phase| of_phase(phase, None, None).level;
        let cases = [
            (Some("Active"), Level::Ok),
            (Some("Available"), Level::Ok),
            (Some("Bound"), Level::Ok),
            (Some("Released"), Level::Idle),
            (Some("Lost"), Level::Bad),
            (Some("Failed"), Level::Bad),
            (Some("Pending"), Level::Progress),
            (Some("Terminating"), Level::Progress),
            (Some("New"), Level::Warn),
            (None, Level::Warn),
        ];
        for (name, expected) in cases {
            assert_eq!(phase(name), expected, "{name:?}");
        }
        let nodes =
            [("NotReady", true, Level::Bad), ("Ready", true, Level::Idle), ("Ready", false, Level::Ok)];
        for (status, is_cordoned, expected) in nodes {
            assert_eq!(of_node(status, is_cordoned, false), expected, "{status}");
        }
        for is_cordoned in [true, false] {
            assert_eq!(of_node("Unknown", is_cordoned, false), Level::Warn);
            assert_eq!(of_node("Ready", is_cordoned, true), Level::Warn);
            assert_eq!(of_node("NotReady", is_cordoned, true), Level::Bad);
        }
        assert_eq!(["Normal", "Warning", "New"].map(of_event), [Level::Ok, Level::Warn, Level::Warn]);
    }
}
