//! Processes and files of a control plane that the test bed started.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    Component,
    binaries::Binaries,
    certificates::{Authority, Pair},
    error::{Error, Result, io},
    folder::Folder,
    node::Machine,
    ports::Ports,
};

/// Owned processes and files of a control plane. Fields are dropped in this order: the directory last.
pub(crate) struct Owned {
    pub(crate) nodes: Mutex<Vec<Arc<Machine>>>,
    pub(crate) children: Mutex<BTreeMap<Component, Child>>,
    pub(crate) authority: Authority,
    pub(crate) binaries: Binaries,
    pub(crate) apiserver_flags: Vec<String>,
    pub(crate) ports: Ports,
    pub(crate) folder: Folder,
}

impl Owned {
    pub(crate) fn spawn(&self, component: Component) -> Result<()> {
        let path = self.folder.path().join(component.program()).with_extension("log");
        let log = fs::File::options().create(true).append(true).open(path);
        let log = log.map_err(io(format!("opening the log of {component}")))?;
        let mut command = self.binaries.command(component.program())?;
        command.args(component.flags(&self.ports));
        if component == Component::ApiServer {
            command.args(&self.apiserver_flags);
        }
        let child = command
            .current_dir(self.folder.path())
            .env("KCP_EXIT_WITH_STDIN", "1")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(io("duplicating the log file handle"))?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(io(format!("starting {component}")))?;
        self.children().insert(component, child);
        Ok(())
    }

    pub(crate) fn still_runs(&self, component: Component) -> Result<()> {
        running(&mut self.children(), component).map(|_| ()).map_err(|_| Error::Ended {
            name: component.to_string(),
            log: tail(&self.folder.path().join(component.program()).with_extension("log")),
        })
    }

    pub(crate) fn end_nodes(&self) {
        for node in self.nodes.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            node.power_cut();
        }
    }

    pub(crate) fn write_pair(&self, name: &str, pair: &Pair) -> Result<()> {
        self.write(&format!("{name}.crt"), &pair.certificate)?;
        self.write(&format!("{name}.key"), &pair.key)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.folder.path().join(name), text).map_err(io(format!("writing {name}")))
    }

    pub(crate) fn children(&self) -> MutexGuard<'_, BTreeMap<Component, Child>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.end_nodes();
        for (_, mut child) in std::mem::take(&mut *self.children()).into_iter().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process of a component.
///
/// # Errors
/// [`Error::NotRunning`] when the component does not run.
pub(crate) fn running(children: &mut BTreeMap<Component, Child>, component: Component) -> Result<&mut Child> {
    let child = children.get_mut(&component).ok_or(Error::NotRunning(component))?;
    match child.try_wait() {
        Ok(None) => Ok(child),
        _ => Err(Error::NotRunning(component)),
    }
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
