//! Parsers of messages of the kubelet, the container runtimes, the scheduler and the API server. The texts are not part of
//! the Kubernetes API: `tests/corpus/diagnosis` has those of several versions, each marked as seen on a real cluster or
//! made from the format in the sources. A text that no parser recognises is quoted, and the finding has no variant.

mod admission;
mod config;
mod image;
mod schedule;
mod volume;

pub use admission::{Refusal, refusal};
pub use config::{Missing, missing};
pub use image::image_pull;
pub use schedule::{Obstacle, Unschedulable, unschedulable};
pub use volume::{ClaimTrouble, attach_trouble, claim_trouble};

/// The text between two marks: after the first occurrence of `begin`, up to the next `end`.
fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    Some(rest.split_once(end)?.0).filter(|found| !found.is_empty())
}

/// The type of a probe in the message of an event `Unhealthy` (`Liveness probe failed: …`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types of Kubernetes probes")]
pub enum Probe {
    Liveness,
    Readiness,
    Startup,
}

/// The probe that failed, by an event's reason and message. Also by the event `Killing` with which the kubelet restarts a
/// container: `Container app failed liveness probe, will be restarted`.
pub fn failed_probe(reason: &str, message: &str) -> Option<Probe> {
    let probes = [
        (Probe::Liveness, "Liveness probe ", "failed liveness probe"),
        (Probe::Readiness, "Readiness probe ", "failed readiness probe"),
        (Probe::Startup, "Startup probe ", "failed startup probe"),
    ];
    let matches = |(_, unhealthy, killing): &(Probe, &str, &str)| match reason {
        "Unhealthy" => message.starts_with(unhealthy),
        "Killing" => message.contains(killing),
        _ => false,
    };
    probes.into_iter().find(matches).map(|(probe, ..)| probe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_follows_from_reason_and_message() {
        for (reason, message, expected) in [
            (
                "Unhealthy",
                "Liveness probe failed: HTTP probe failed with statuscode: 500",
                Some(Probe::Liveness),
            ),
            ("Unhealthy", "Readiness probe errored: rpc error", Some(Probe::Readiness)),
            (
                "Unhealthy",
                "Startup probe failed: dial tcp 10.0.0.1:80: connect: connection refused",
                Some(Probe::Startup),
            ),
            ("Killing", "Container app failed liveness probe, will be restarted", Some(Probe::Liveness)),
            ("Killing", "Container app failed startup probe, will be restarted", Some(Probe::Startup)),
            ("Killing", "Stopping container app", None),
            ("BackOff", "Liveness probe failed: x", None),
        ] {
            assert_eq!(failed_probe(reason, message), expected, "{message}");
        }
    }
}
