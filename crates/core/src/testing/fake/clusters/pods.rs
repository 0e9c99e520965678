//! Logs of pods of the fake clusters.

use async_trait::async_trait;
use futures_util::{StreamExt, future, stream};

use super::{FakeClusters, lock, not_found};
use crate::{
    access::Permit,
    error::{Cause, Error, Result},
    name::{ContainerName, ObjectName},
    object::parse,
    pod::{Follow, LogChunks, LogFile, LogOptions, PodApi, PodContainers, PodLogs, PodObject, ReadOptions},
    streams::StreamEnd,
};

#[async_trait]
impl PodApi for FakeClusters {
    async fn logs(&self, permit: &Permit, pod: &ObjectName, options: &LogOptions) -> Result<PodLogs> {
        self.call(permit, pod.as_str())?;
        let key = Self::key(permit, pod)?;
        if !lock(&self.objects).contains_key(&key) {
            return Err(not_found(&key));
        }
        let container = options.container.as_ref().map_or("app", |name| name.as_str()).to_owned();
        Ok(PodLogs {
            pod_name: pod.to_string(),
            containers: vec![container.clone()],
            container,
            init_containers: Vec::new(),
            tail_lines: options.tail_lines,
            truncated: false,
            logs: "a line\n".to_owned(),
        })
    }

    async fn follow(&self, permit: &Permit, pod: &ObjectName, _: &Follow) -> Result<LogChunks> {
        self.call(permit, pod.as_str())?;
        let key = Self::key(permit, pod)?;
        if !lock(&self.objects).contains_key(&key) {
            return Err(not_found(&key));
        }
        let line = async { Ok(b"2026-01-01T00:00:00Z a line\n".to_vec()) };
        let log = lock(&self.logs).pop_front();
        let log = log.map_or_else(|| stream::once(line).boxed(), StreamExt::boxed);
        Ok(log.map(|chunk| chunk.map_err(StreamEnd::from)).boxed())
    }

    async fn read(&self, permit: &Permit, pod: &ObjectName, options: &ReadOptions) -> Result<LogFile> {
        self.call(permit, pod.as_str())?;
        let key = Self::key(permit, pod)?;
        if !lock(&self.objects).contains_key(&key) {
            return Err(not_found(&key));
        }
        let container = options.container.as_ref().map_or("app", |name| name.as_str()).to_owned();
        let time = if options.timestamps { "2026-01-01T00:00:00Z " } else { "" };
        let line = format!("{time}a line\n").into_bytes();
        let log = lock(&self.logs).pop_front();
        let log = log.map_or_else(|| stream::once(future::ready(Ok(line))).boxed(), StreamExt::boxed);
        Ok(LogFile { container, chunks: log.map(|chunk| chunk.map_err(StreamEnd::from)).boxed() })
    }

    async fn containers(&self, permit: &Permit, pod: &ObjectName) -> Result<PodContainers> {
        self.call(permit, pod.as_str())?;
        let key = Self::key(permit, pod)?;
        let object = self.find(&key)?.ok_or_else(|| not_found(&key))?;
        let PodObject { spec, .. } = parse(&object)?;
        let names = spec.init_containers.iter().chain(&spec.containers);
        let names: Vec<_> = names.filter_map(|one| ContainerName::new(&*one.name).ok()).collect();
        let first = spec.containers.first().map_or("app", |one| &*one.name);
        let default = ContainerName::new(first).map_err(|_| Error::new(Cause::UnexpectedAnswer))?;
        Ok(PodContainers { names: if names.is_empty() { vec![default.clone()] } else { names }, default })
    }
}
