//! Rules about PersistentVolumeClaims.

use super::Context;
use crate::{
    diagnosis::{
        Finding, Quote, Rule, Variant,
        objects::{ClaimObject, PodObject},
        parse::{self, ClaimTrouble},
    },
    rows::Level,
};

impl<'a> Context<'a> {
    /// The findings of the diagnosed claim, and of the pods that cannot mount its volume.
    pub(super) fn of_diagnosed_claim(&self) -> Vec<Finding> {
        let claims = self.evidence.claims.iter();
        let stuck =
            |claim: &'a ClaimObject| self.stuck_deletion("PersistentVolumeClaim", &claim.metadata, None);
        let of_claims = claims.filter_map(|claim| stuck(claim).or_else(|| self.of_claim(claim)));
        let is_of_mount = |finding: &Finding| finding.rule == Rule::Pvc && finding.object.kind == "Pod";
        let of_pods = self.of_pods().into_iter().filter(is_of_mount);
        of_claims.chain(of_pods).collect()
    }

    /// A claim that is not bound.
    pub(super) fn of_claim(&self, claim: &'a ClaimObject) -> Option<Finding> {
        let phase = claim.status.phase.as_str();
        let is_unbound = ["Pending", "Lost"].contains(&phase);
        if !is_unbound {
            return None;
        }
        let is_trouble = |reason: &str, message: &str| parse::claim_trouble(reason, message).is_some();
        let event = self.newest_event(&claim.metadata, |event| is_trouble(&event.reason, &event.message));
        let trouble = event.and_then(|event| parse::claim_trouble(&event.reason, &event.message));
        let ClaimTrouble { variant, class } = match trouble {
            Some(trouble) => trouble,
            None if phase == "Lost" => ClaimTrouble { variant: Variant::NoVolume, class: String::new() },
            None => return Some(self.unexplained(claim)),
        };
        let waits = variant == Variant::WaitsForConsumer;
        let finding = if waits {
            Finding { severity: Level::Progress, ..self.unexplained(claim) }
        } else {
            self.unexplained(claim)
        };
        let quote = event.map(|event| {
            let source = format!("event persistentvolumeclaim/{}", claim.metadata.name);
            Quote::new(source, event.last_seen(), &event.message)
        });
        Some(finding.variant(variant).fact("class", class).quotes(quote))
    }

    /// The finding for an unbound claim without an event that explains it.
    fn unexplained(&self, claim: &ClaimObject) -> Finding {
        let level = if claim.status.phase == "Lost" { Level::Bad } else { Level::Warn };
        let finding = Finding::new(Rule::Pvc, level, claim.metadata.reference("PersistentVolumeClaim"));
        let class = claim.spec.storage_class_name.as_deref().unwrap_or_default();
        let finding = finding.fact("claim", &claim.metadata.name).fact("class", class);
        let phase = format!(
            "phase {}, storage class {}",
            claim.status.phase,
            if class.is_empty() { "-" } else { class }
        );
        let source = format!("persistentvolumeclaim/{}", claim.metadata.name);
        finding.since(claim.metadata.creation_timestamp).quotes([Quote::new(source, None, &phase)])
    }

    /// The claim for which a pod waits, by the scheduler's message. `None` if the volume has another fault.
    pub(super) fn unbound(&self, pod: &'a PodObject, message: &str) -> Option<Finding> {
        let names = || {
            let claims = pod.spec.volumes.iter().filter_map(|volume| volume.persistent_volume_claim.as_ref());
            claims.map(|claim| claim.claim_name.as_str())
        };
        let claims =
            names().filter_map(|name| self.evidence.claims.iter().find(|claim| claim.metadata.name == name));
        // a claim that waits for the pod is not what the pod waits for
        let waits = |finding: &Finding| finding.variant == Some(Variant::WaitsForConsumer);
        let of_claims = claims.filter_map(|claim| self.of_claim(claim)).find(|finding| !waits(finding));
        if of_claims.is_some() {
            return of_claims;
        }
        let is_absent = message.contains("persistentvolumeclaim \"") && message.contains("\" not found");
        let is_unbound = message.contains("unbound immediate PersistentVolumeClaims");
        if !is_absent && !is_unbound {
            return None;
        }
        let finding = Finding::new(Rule::Pvc, Level::Warn, pod.metadata.reference("Pod"));
        Some(finding.fact("claim", names().collect::<Vec<_>>().join(", ")))
    }
}
