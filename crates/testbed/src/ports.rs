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

/// The ports of a control plane.
pub(crate) struct Ports {
    pub(crate) apiserver: u16,
    pub(crate) etcd: u16,
    pub(crate) etcd_peer: u16,
    pub(crate) controller_manager: u16,
    pub(crate) scheduler: u16,
    _block: Block,
}

impl Ports {
    pub(crate) fn claim() -> Result<Self> {
        let block = Block::claim(5)?;
        Ok(Self {
            apiserver: block.base,
            etcd: block.base + 1,
            etcd_peer: block.base + 2,
            controller_manager: block.base + 3,
            scheduler: block.base + 4,
            _block: block,
        })
    }
}

/// One port.
pub(crate) struct Port(Block);

impl Port {
    pub(crate) fn claim() -> Result<Self> {
        Block::claim(1).map(Self)
    }

    pub(crate) fn number(&self) -> u16 {
        self.0.base
    }
}

/// A block of ports, held by a locked file as long as this value, or at the longest its process, lives.
struct Block {
    base: u16,
    _lock: File,
}

impl Block {
    /// A block whose first `used` ports are free.
    fn claim(used: u16) -> Result<Self> {
        let folder = cache()?.join("ports");
        std::fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
        let start = process::id() % u32::from(BLOCKS);
        for block in (0..BLOCKS).map(|n| (start as u16 + n) % BLOCKS) {
            let base = FIRST + block * BLOCK;
            let lock = folder.join(base.to_string());
            let lock = File::create(&lock).map_err(io(format!("creating {}", lock.display())))?;
            if lock.try_lock().is_ok() && (base..base + used).all(free) {
                return Ok(Self { base, _lock: lock });
            }
        }
        Err(Error::Program("no free ports from 20000 on".into()))
    }
}

fn free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}
