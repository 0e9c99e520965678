//! Components of a control plane and their command-line flags.

use std::fmt;

use crate::ports::Ports;

/// A component of the control plane. Components start in this order and stop in the reverse order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// etcd
    Etcd,
    /// kube-apiserver
    ApiServer,
    /// kube-controller-manager
    ControllerManager,
    /// kube-scheduler
    Scheduler,
    /// metrics-server, only after [`metrics_server`](fn@crate::metrics_server)
    MetricsServer,
}

/// A signal to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGSTOP: the process is suspended; its connections stay open without responses.
    Stop,
    /// SIGCONT: the process resumes.
    Cont,
    /// SIGTERM: the process shuts down.
    Term,
    /// SIGKILL: the process ends at once.
    Kill,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Stop => Self::STOP,
            Signal::Cont => Self::CONT,
            Signal::Term => Self::TERM,
            Signal::Kill => Self::KILL,
        }
    }
}

impl Component {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::MetricsServer => "metrics-server",
        }
    }

    /// Command-line flags. Paths are relative to the control plane's directory, in which each component runs.
    pub(crate) fn flags(self, ports: &Ports) -> Vec<String> {
        let text = match self {
            // the data does not outlive the process, so fsync is not needed
            Self::Etcd => format!(
                "--data-dir=etcd --listen-client-urls=http://127.0.0.1:{0} --advertise-client-urls=http://127.0.0.1:{0}
                 --listen-peer-urls=http://127.0.0.1:{1} --initial-advertise-peer-urls=http://127.0.0.1:{1}
                 --initial-cluster=default=http://127.0.0.1:{1} --unsafe-no-fsync --quota-backend-bytes=8589934592",
                ports.etcd, ports.etcd_peer
            ),
            // Kubelets are reached by IP address, because node names do not resolve. Tests rely on the audit log, so a
            // response waits for its event. The request limits exceed what a benchmark sends. An aggregated API server
            // reads the user from the headers of a request with the front proxy's certificate.
            Self::ApiServer => format!(
                "--etcd-servers=http://127.0.0.1:{} --secure-port={} --bind-address=127.0.0.1
                 --advertise-address=127.0.0.1 --endpoint-reconciler-type=none --tls-cert-file=apiserver.crt
                 --tls-private-key-file=apiserver.key --client-ca-file=ca.crt --token-auth-file=tokens.csv
                 --kubelet-preferred-address-types=InternalIP --kubelet-client-certificate=kubelet-client.crt
                 --kubelet-client-key=kubelet-client.key --service-account-issuer=https://kubernetes.default.svc
                 --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key
                 --authorization-mode=Node,RBAC --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true
                 --audit-policy-file=audit-policy.yaml --audit-log-path=audit.log --audit-log-mode=blocking
                 --requestheader-client-ca-file=front-proxy-ca.crt --requestheader-allowed-names=front-proxy
                 --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group
                 --requestheader-extra-headers-prefix=X-Remote-Extra- --proxy-client-cert-file=front-proxy.crt
                 --proxy-client-key-file=front-proxy.key
                 --max-requests-inflight=4000 --max-mutating-requests-inflight=2000",
                ports.etcd, ports.apiserver
            ),
            Self::ControllerManager => format!(
                "--kubeconfig=controller-manager.kubeconfig --secure-port={} --bind-address=127.0.0.1
                 --leader-elect=false --service-account-private-key-file=sa.key --root-ca-file=ca.crt
                 --use-service-account-credentials --concurrent-deployment-syncs=20 --kube-api-qps=500
                 --kube-api-burst=1000",
                ports.controller_manager
            ),
            Self::Scheduler => format!(
                "--kubeconfig=scheduler.kubeconfig --secure-port={} --bind-address=127.0.0.1 --leader-elect=false
                 --kube-api-qps=500 --kube-api-burst=1000",
                ports.scheduler
            ),
            // Kubelets serve a certificate of their own, and on the port in the node's status. The resolution has its
            // smallest value, and the kubelet's timeout must be below it.
            Self::MetricsServer => format!(
                "--kubeconfig=admin.kubeconfig --authentication-kubeconfig=admin.kubeconfig
                 --authorization-kubeconfig=admin.kubeconfig --secure-port={} --bind-address=127.0.0.1
                 --cert-dir=metrics-server --kubelet-insecure-tls --kubelet-preferred-address-types=InternalIP
                 --kubelet-use-node-status-port --kubelet-request-timeout=5s --metric-resolution=10s",
                ports.metrics_server
            ),
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}
