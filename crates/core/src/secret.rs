//! Secrets: rows without values, creating, changing, deleting, and the one way to a value.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    cluster::ClusterId,
    config::{check_count, check_sizes},
    error::{Cause, Error, Reason, Result},
    gate::{Changed, Gate},
    hex::Hex,
    kind::Kind,
    name::{Namespace, ObjectName},
    object::{Labels, check_labels, check_word},
};

mod revealed;
mod row;

pub use revealed::RevealedSecret;
pub use row::{SecretDetail, SecretObject, SecretRow};

/// A Secret to create. Its `Debug` shows keys only.
#[derive(Clone)]
pub struct NewSecret {
    /// Its name.
    pub name: ObjectName,
    /// `Opaque` when none.
    pub r#type: Option<String>,
    /// Its values, plain; may be empty.
    pub data: BTreeMap<String, SecretString>,
    /// Its labels.
    pub labels: Labels,
}

impl fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSecret").field("name", &self.name).field("keys", &self.data.keys()).finish()
    }
}

/// A change of a Secret; what is none stays.
#[derive(Clone, Debug, Default)]
pub struct SecretPatch {
    /// All values; a key without one keeps the value it has.
    pub data: Option<BTreeMap<String, Option<SecretString>>>,
    /// All labels.
    pub labels: Option<Labels>,
    /// The version the caller read; another one is a conflict.
    pub resource_version: Option<String>,
}

/// Tells in the trail whether a value stayed the same, without telling what it is.
pub trait ValueDigest: Send + Sync {
    /// A hash under a key of the install's: always the same for the same value in the same place, and of no use to
    /// whoever tries out values without the key.
    fn digest(&self, place: &[&str], value: &[u8]) -> Hex<16>;
}

/// Reads and changes Secrets in the permit's cluster and namespace. No error of it quotes the cluster's words: they may
/// hold a value.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SecretApi: Send + Sync {
    /// A Secret without its values; none when it is absent.
    ///
    /// # Errors
    /// As every call to a cluster, as everywhere in this port.
    async fn get(&self, permit: &Permit, name: &ObjectName) -> Result<Option<SecretDetail>>;

    /// A Secret's values; none when it is absent.
    async fn reveal(&self, permit: &Permit, name: &ObjectName) -> Result<Option<RevealedSecret>>;

    /// Creates a Secret.
    ///
    /// # Errors
    /// `AlreadyExists`, `QuotaExceeded`, `NamespaceTerminating`, `NotFoundInCluster` (the namespace).
    async fn create(&self, permit: &Permit, secret: &NewSecret) -> Result<SecretRow>;

    /// Changes a Secret.
    ///
    /// # Errors
    /// `NotFoundInCluster`; `ConflictInCluster` when it is not, or does not stay, of the patch's version; `InvalidInput`
    /// for a key without a value that has none to keep.
    async fn update(&self, permit: &Permit, name: &ObjectName, patch: &SecretPatch) -> Result<SecretRow>;

    /// Deletes a Secret.
    ///
    /// # Errors
    /// `NotFoundInCluster`.
    async fn delete(&self, permit: &Permit, name: &ObjectName) -> Result<()>;
}

/// Shows, reveals and changes Secrets.
#[derive(Clone)]
pub struct Secrets {
    pub(crate) gate: Gate,
    pub(crate) api: Arc<dyn SecretApi>,
    pub(crate) digest: Arc<dyn ValueDigest>,
}

impl Secrets {
    /// These use cases alone, for an embedder without the rest of [`crate::app::App`].
    pub fn new(gate: Gate, api: Arc<dyn SecretApi>, digest: Arc<dyn ValueDigest>) -> Self {
        Self { gate, api, digest }
    }

    /// A Secret without its values.
    ///
    /// # Errors
    /// `NotFoundInCluster`; else as [`SecretApi`].
    pub async fn detail(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<SecretDetail> {
        let permit = self.gate.allow(caller, access(Verb::Get, cluster, namespace, name)).await?;
        self.api.get(&permit, name).await?.ok_or_else(|| absent(namespace, name))
    }

    /// A Secret's values. The intent is durable before they are read.
    ///
    /// # Errors
    /// `NotFoundInCluster`; else as [`Gate::change`].
    pub async fn reveal(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
    ) -> Result<Changed<RevealedSecret>> {
        let access = access(Verb::Reveal, cluster, namespace, &name);
        let (api, namespace) = (self.api.clone(), namespace.clone());
        let work = async move |permit: Permit| {
            let revealed = api.reveal(&permit, &name).await?;
            Ok(revealed.ok_or_else(|| absent(&namespace, &name))?.into())
        };
        self.gate.change(caller, access, work).await
    }

    /// Creates a Secret. The trail keeps of each key its size; once the cluster has it, a keyed hash, too.
    ///
    /// # Errors
    /// `InvalidInput`; else as [`Gate::change`] and [`SecretApi::create`].
    pub async fn create(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        secret: NewSecret,
    ) -> Result<Changed<SecretRow>> {
        check_count(secret.data.len())?;
        let sizes = secret.data.iter().map(|(key, value)| (key.as_str(), bytes_of(value))).collect();
        check_sizes(&sizes)?;
        check_labels(&secret.labels)?;
        secret.r#type.as_deref().map_or(Ok(()), |text| check_word("type", text))?;
        let granted = self.gate.grant(caller, access(Verb::Create, cluster, namespace, &secret.name)).await?;
        let granted = granted.with("keys", json!(sizes));
        let values = secret.data.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let note = self.hashes(cluster, namespace, &secret.name, values);
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.create(&permit, &secret).await?.into());
        self.gate.change_granted(granted, work, note).await
    }

    /// Changes a Secret. The trail keeps of each key its size; once the cluster has it, a keyed hash, too. A kept value has
    /// neither.
    ///
    /// # Errors
    /// `InvalidInput`; else as [`Gate::change`] and [`SecretApi::update`].
    pub async fn update(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
        patch: SecretPatch,
    ) -> Result<Changed<SecretRow>> {
        if patch.data.is_none() && patch.labels.is_none() {
            return Err(Error::invalid("data", Reason::Required));
        }
        let mut sizes = None;
        if let Some(data) = &patch.data {
            check_count(data.len())?;
            let size = |value: &Option<SecretString>| value.as_ref().map_or(0, bytes_of);
            check_sizes(&data.iter().map(|(key, value)| (key.as_str(), size(value))).collect())?;
            sizes = Some(data);
        }
        patch.labels.as_ref().map_or(Ok(()), check_labels)?;
        patch.resource_version.as_deref().map_or(Ok(()), |text| check_word("resource_version", text))?;
        let mut granted = self.gate.grant(caller, access(Verb::Update, cluster, namespace, &name)).await?;
        if let Some(data) = sizes {
            let sizes: BTreeMap<_, _> =
                data.iter().map(|(key, value)| (key, value.as_ref().map(bytes_of))).collect();
            granted = granted.with("keys", json!(sizes));
        }
        let note = patch.data.clone().map(|data| self.hashes(cluster, namespace, &name, data));
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.update(&permit, &name, &patch).await?.into());
        self.gate.change_granted(granted, work, move || note.map_or_else(Vec::new, |note| note())).await
    }

    /// Deletes a Secret.
    ///
    /// # Errors
    /// As [`Gate::change`] and [`SecretApi::delete`].
    pub async fn delete(
        &self,
        caller: &Caller,
        cluster: ClusterId,
        namespace: &Namespace,
        name: ObjectName,
    ) -> Result<Changed<()>> {
        let access = access(Verb::Delete, cluster, namespace, &name);
        let api = self.api.clone();
        let work = async move |permit: Permit| Ok(api.delete(&permit, &name).await?.into());
        self.gate.change(caller, access, work).await
    }

    /// What the trail keeps of values that a cluster has taken. Nothing is hashed before that: who may not change a Secret,
    /// or whose change is refused, would else learn by the hash whether a value is one of an earlier row.
    fn hashes(
        &self,
        cluster: ClusterId,
        namespace: &Namespace,
        name: &ObjectName,
        values: BTreeMap<String, Option<SecretString>>,
    ) -> impl FnOnce() -> Vec<(&'static str, Value)> + Send + 'static + use<> {
        let (digest, cluster) = (self.digest.clone(), cluster.to_string());
        let (namespace, name) = (namespace.clone(), name.clone());
        move || {
            let shown = |key: &str, value: &SecretString| {
                // the same value in another place has another hash
                let place = [&cluster, namespace.as_str(), name.as_str(), key];
                let hash = digest.digest(&place, value.expose_secret().as_bytes());
                json!({"bytes": bytes_of(value), "hash": hash})
            };
            let keys: Value = values
                .iter()
                .map(|(key, value)| {
                    (key.clone(), value.as_ref().map_or(Value::Null, |value| shown(key, value)))
                })
                .collect();
            vec![("keys", keys)]
        }
    }
}

fn bytes_of(value: &SecretString) -> usize {
    value.expose_secret().len()
}

fn access(verb: Verb, cluster: ClusterId, namespace: &Namespace, name: &ObjectName) -> AccessRequest {
    AccessRequest::to(verb, Resource::Kind(Kind::Secret))
        .in_cluster(cluster)
        .in_namespace(namespace)
        .named(name.as_str())
}

fn absent(namespace: &Namespace, name: &ObjectName) -> Error {
    Error::new(Cause::NotFoundInCluster).resource("secret").namespace(namespace.as_str()).name(name.as_str())
}
