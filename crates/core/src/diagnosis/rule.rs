//! Rules of the diagnosis and their variants: the closed list of causes that a finding or a problem names
//! (contract-next.md, section 10; day2.md, section 9).

use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::Reason;

/// Declares an enum with its wire names.
macro_rules! names {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal;)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All values, in the order of the variants.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value in requests and responses.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Parses a value.
            ///
            /// # Errors
            /// [`Reason::NotOneOf`].
            pub fn parse(text: &str) -> Result<Self, Reason> {
                Self::ALL.iter().copied().find(|this| this.as_str() == text).ok_or(Reason::NotOneOf)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|this| this.as_str())))
                    .into()
            }
        }

        #[cfg(feature = "openapi")]
        impl utoipa::ToSchema for $name {}
    };
}

names! {
    /// A cause of a fault.
    Rule {
        /// An image cannot be pulled.
        ImagePull = "image_pull";
        /// A Secret that a container needs does not exist.
        MissingSecret = "missing_secret";
        /// A ConfigMap that a container needs does not exist.
        MissingConfigMap = "missing_configmap";
        /// A Secret or ConfigMap lacks a key that a container needs.
        MissingKey = "missing_key";
        /// A container used more memory than its limit.
        Oom = "oom";
        /// A container is restarted because its liveness probe fails. From events.
        Liveness = "liveness";
        /// A container is restarted because its startup probe fails. From events.
        Startup = "startup";
        /// A container runs and is not ready.
        NotReady = "not_ready";
        /// The command of a container cannot be started.
        StartError = "start_error";
        /// A container exits again and again.
        Crash = "crash";
        /// An init container fails, so that the containers do not start.
        Init = "init";
        /// No node fits the pod.
        Unschedulable = "unschedulable";
        /// A volume claim is not bound, or its volume is not attached.
        Pvc = "pvc";
        /// A ResourceQuota refuses new pods.
        Quota = "quota";
        /// A LimitRange refuses new pods.
        LimitRange = "limit_range";
        /// Pod Security admission refuses new pods.
        PodSecurity = "pod_security";
        /// An admission webhook refuses new pods, or does not answer.
        Webhook = "webhook";
        /// A job failed.
        Job = "job";
        /// A cron job missed its schedule.
        Cron = "cron";
        /// A node is not ready or lacks resources.
        Node = "node";
        /// A deletion does not end.
        StuckTerminating = "stuck_terminating";
        /// A Service has no ready endpoints.
        Service = "service";
        /// An Ingress refers to a Service or port that does not exist.
        Ingress = "ingress";
        /// An autoscaler cannot scale.
        Hpa = "hpa";
        /// A PodDisruptionBudget allows no disruption.
        Pdb = "pdb";
        /// A rollout is stuck for none of the other reasons.
        Rollout = "rollout";
        /// A cluster cannot be reached or read. Of problems only.
        Cluster = "cluster";
    }
}

names! {
    /// What kind of a [`Rule`] it is. Each rule has its own set: [`Rule::variants`].
    Variant {
        /// The registry refuses the credential, or requires one.
        Auth = "auth";
        /// The registry has no such image or tag.
        NotFound = "not_found";
        /// The registry does not answer.
        Unreachable = "unreachable";
        /// The registry refuses more pulls for now.
        Rate = "rate";
        /// The image's name is not valid.
        BadName = "bad_name";
        /// A selector matches nothing: no node, or no pod.
        Selector = "selector";
        /// The nodes have taints that the pod does not tolerate.
        Taint = "taint";
        /// The nodes have too little CPU left.
        Cpu = "cpu";
        /// The nodes have too little memory left.
        Memory = "memory";
        /// An affinity rule or a topology spread constraint fits no node.
        Affinity = "affinity";
        /// A volume fits no node.
        Volume = "volume";
        /// The storage class does not exist.
        ClassMissing = "class_missing";
        /// No volume fits the claim, and none is provisioned.
        NoVolume = "no_volume";
        /// The claim is bound when a pod that uses it is scheduled.
        WaitsForConsumer = "waits_for_consumer";
        /// The volume cannot be attached to the node or mounted.
        Attach = "attach";
        /// The pods of the job failed too often.
        BackoffLimit = "backoff_limit";
        /// The job ran longer than it may.
        Deadline = "deadline";
        /// Starts of the cron job were missed.
        Missed = "missed";
        /// The node does not report, or reports that it is not ready.
        NotReady = "not_ready";
        /// The node lacks memory, disk space or process ids.
        Pressure = "pressure";
        /// Finalizers are left.
        Finalizers = "finalizers";
        /// The node of the pod does not exist or does not answer.
        NodeGone = "node_gone";
        /// Pods exist, and none is ready.
        NoneReady = "none_ready";
        /// No container has a port of that name.
        PortName = "port_name";
        /// The Service or its port does not exist.
        BackendMissing = "backend_missing";
        /// The autoscaler gets no metrics.
        NoMetrics = "no_metrics";
        /// The autoscaler computes more replicas than its maximum.
        AtMax = "at_max";
        /// An init container used more memory than its limit.
        Oom = "oom";
        /// The command of an init container cannot be started.
        StartError = "start_error";
        /// An init container exits with an error.
        Crash = "crash";
    }
}

impl Rule {
    /// The variants that a finding of this rule may have. A finding may also have none.
    pub const fn variants(self) -> &'static [Variant] {
        use Variant as V;
        match self {
            Self::ImagePull => &[V::Auth, V::NotFound, V::Unreachable, V::Rate, V::BadName],
            Self::Init => &[V::Oom, V::StartError, V::Crash],
            Self::Unschedulable => &[V::Selector, V::Taint, V::Cpu, V::Memory, V::Affinity, V::Volume],
            Self::Pvc => &[V::ClassMissing, V::NoVolume, V::WaitsForConsumer, V::Attach],
            Self::Job => &[V::BackoffLimit, V::Deadline],
            Self::Cron => &[V::Missed],
            Self::Node => &[V::NotReady, V::Pressure],
            Self::StuckTerminating => &[V::Finalizers, V::NodeGone],
            Self::Service => &[V::Selector, V::NoneReady, V::PortName],
            Self::Ingress => &[V::BackendMissing],
            Self::Hpa => &[V::NoMetrics, V::AtMax],
            Self::MissingSecret
            | Self::MissingConfigMap
            | Self::MissingKey
            | Self::Oom
            | Self::Liveness
            | Self::Startup
            | Self::NotReady
            | Self::StartError
            | Self::Crash
            | Self::Quota
            | Self::LimitRange
            | Self::PodSecurity
            | Self::Webhook
            | Self::Pdb
            | Self::Rollout
            | Self::Cluster => &[],
        }
    }

    /// Whether `/problems` can name this rule: it needs only what cached rows hold.
    pub const fn is_of_problems(self) -> bool {
        !matches!(
            self,
            Self::Liveness | Self::Startup | Self::Service | Self::Ingress | Self::Hpa | Self::Pdb
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_parse() {
        for (i, &rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(Rule::parse(rule.as_str()), Ok(rule));
            assert!(Rule::ALL[..i].iter().all(|other| other.as_str() != rule.as_str()), "{rule}");
        }
        for (i, &variant) in Variant::ALL.iter().enumerate() {
            assert_eq!(Variant::parse(variant.as_str()), Ok(variant));
            assert!(Variant::ALL[..i].iter().all(|other| other.as_str() != variant.as_str()), "{variant}");
        }
        assert_eq!(Rule::parse("auth"), Err(Reason::NotOneOf));
        assert_eq!(serde_json::to_value(Rule::ImagePull).unwrap(), "image_pull");
    }

    #[test]
    fn every_variant_belongs_to_a_rule() {
        for variant in Variant::ALL {
            assert!(Rule::ALL.iter().any(|rule| rule.variants().contains(variant)), "{variant}");
        }
    }

    #[test]
    fn rules_of_problems_are_those_of_the_contract() {
        let names: Vec<_> =
            Rule::ALL.iter().filter(|rule| rule.is_of_problems()).map(|rule| rule.as_str()).collect();
        let contract = "image_pull missing_secret missing_configmap missing_key oom not_ready start_error crash init \
                        unschedulable pvc quota limit_range pod_security webhook job cron node stuck_terminating \
                        rollout cluster";
        assert_eq!(names.join(" "), contract);
    }
}
