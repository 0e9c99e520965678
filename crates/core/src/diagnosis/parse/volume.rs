//! Why a claim is not bound, or its volume not attached.

use super::between;
use crate::diagnosis::Variant;

/// Why a claim is not bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimTrouble {
    /// The variant.
    pub variant: Variant,
    /// The storage class that the message names; empty if it names none.
    pub class: String,
}

/// Why a claim is not bound, by the reason and message of an event about it
/// (`kubernetes/pkg/controller/volume/persistentvolume`).
pub fn claim_trouble(reason: &str, message: &str) -> Option<ClaimTrouble> {
    if let Some(class) = between(message, "storageclass.storage.k8s.io \"", "\" not found") {
        return Some(ClaimTrouble { variant: Variant::ClassMissing, class: class.to_owned() });
    }
    let variant = match reason {
        "WaitForFirstConsumer" | "WaitForPodScheduled" => Variant::WaitsForConsumer,
        "FailedBinding" | "ProvisioningFailed" | "ExternalProvisioning" | "ClaimLost" | "ClaimMisbound" => {
            Variant::NoVolume
        }
        _ => return None,
    };
    Some(ClaimTrouble { variant, class: String::new() })
}

/// Whether an event about a pod is about a volume that cannot be attached or mounted. A missing Secret or ConfigMap is none:
/// [`super::missing`].
pub fn attach_trouble(reason: &str, message: &str) -> bool {
    match reason {
        "FailedAttachVolume" => true,
        "FailedMount" => super::missing(message).is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_follows_from_the_event() {
        use Variant as V;
        for (reason, message, expected) in [
            (
                "ProvisioningFailed",
                "storageclass.storage.k8s.io \"fast\" not found",
                Some((V::ClassMissing, "fast")),
            ),
            (
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
                Some((V::NoVolume, "")),
            ),
            (
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
                Some((V::WaitsForConsumer, "")),
            ),
            ("ExternalProvisioning", "Waiting for a volume to be created", Some((V::NoVolume, ""))),
            ("ProvisioningSucceeded", "Successfully provisioned volume pvc-1", None),
        ] {
            let expected = expected.map(|(variant, class)| ClaimTrouble { variant, class: class.to_owned() });
            assert_eq!(claim_trouble(reason, message), expected, "{message}");
        }
    }

    #[test]
    fn missing_objects_are_no_trouble_of_a_volume() {
        assert!(attach_trouble("FailedAttachVolume", "Multi-Attach error for volume \"pvc-1\""));
        assert!(attach_trouble("FailedMount", "MountVolume.MountDevice failed for volume \"pvc-1\""));
        assert!(!attach_trouble(
            "FailedMount",
            "MountVolume.SetUp failed for volume \"a\" : secret \"b\" not found"
        ));
        assert!(!attach_trouble("Pulled", ""));
    }
}
