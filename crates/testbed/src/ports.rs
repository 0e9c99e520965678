//! Ports that stay ours: an API server that was killed comes back on its old one.

use std::{fs::File, net::TcpListener, process};

use crate::{
    binaries::cache,
    error::{Error, Result, io},
};

/// Below the range from which the kernel takes ports for outgoing connections, so that none of those ever sits on one.
const FIRST: u16 = 20_000;
const BLOCKS: u16 = 1_200;
const BLOCK: u16 = 8;

/// A block of ports, held by a locked file as long as this value, or at the longest its process, lives.
pub(crate) struct Ports {
    pub(crate) apiserver: u16,
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    _lock: File,
}

impl Ports {
    pub(crate) fn claim() -> Result<Self> {
        let folder = cache()?.join("ports");
        std::fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
        let start = process::id() % u32::from(BLOCKS);
        for block in (0..BLOCKS).map(|n| (start as u16 + n) % BLOCKS) {
            let base = FIRST + block * BLOCK;
            let lock = folder.join(base.to_string());
            let lock = File::create(&lock).map_err(io(format!("creating {}", lock.display())))?;
            if lock.try_lock().is_err() || !(base..base + 5).all(free) {
                continue;
            }
            return Ok(Self {
                apiserver: base,
                etcd: base + 1,
                etcd_peer: base + 2,
                controller_manager: base + 3,
                scheduler: base + 4,
                _lock: lock,
            });
        }
        Err(Error::Program("no free ports from 20000 on".into()))
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
