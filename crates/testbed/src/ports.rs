//! Port reservation: a process keeps its ports, so that a killed API server restarts on the same one.

use std::{fs::File, net::TcpListener, process};

use crate::{
    binaries::cache,
    error::{Error, Result, io},
};

/// First reservable port. The range is below the kernel's ephemeral ports, so that no outgoing connection takes one.
const FIRST_PORT: u16 = 20_000;
const BLOCK_COUNT: u16 = 1_200;
const BLOCK_SIZE: u16 = 8;

/// The ports of a control plane.
pub(crate) struct Ports {
    pub(crate) apiserver: u16,
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    pub(crate) metrics_server: u16,
    _block: Block,
}

impl Ports {
    pub(crate) fn claim() -> Result<Self> {
        let block = Block::claim(6)?;
        Ok(Self {
            apiserver: block.base,
            etcd: block.base + 1,
            etcd_peer: block.base + 2,
            controller_manager: block.base + 3,
            scheduler: block.base + 4,
            metrics_server: block.base + 5,
            _block: block,
        })
    }
}

/// A reserved port of 127.0.0.1, and the port after it. No other process of the test bed uses them until this value is
/// dropped, so that a server can be restarted at the same address, and the address can be configured in another server
/// before.
pub struct Port(Block);

impl Port {
    /// Reserves two free ports.
    pub fn claim() -> Result<Self> {
        Block::claim(2).map(Self)
    }

    /// The number of the port.
    pub fn number(&self) -> u16 {
        self.0.base
    }

    /// The number of the port after it.
    pub fn next(&self) -> u16 {
        self.0.base + 1
    }
}

/// A reserved block of ports. A file lock holds it until the value is dropped or the process ends.
struct Block {
    base: u16,
    _lock: File,
}

impl Block {
    /// Reserves a block whose first `used` ports are free.
    fn claim(used: u16) -> Result<Self> {
        let folder = cache()?.join("ports");
        std::fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
        let start = process::id() % u32::from(BLOCK_COUNT);
        for block in (0..BLOCK_COUNT).map(|n| (start as u16 + n) % BLOCK_COUNT) {
            let base = FIRST_PORT + block * BLOCK_SIZE;
            let lock = folder.join(base.to_string());
            let lock = File::create(&lock).map_err(io(format!("creating {}", lock.display())))?;
            if lock.try_lock().is_ok() && (base..base + used).all(is_free) {
                return Ok(Self { base, _lock: lock });
            }
        }
        Err(Error::Program("no free ports from 20000 on".into()))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
