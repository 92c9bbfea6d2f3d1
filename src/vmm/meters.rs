//! What the disks and network cards of a machine have carried, seen from other threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Traffic;
use super::virtio::{block, net};

/// The counters of all devices; they outlive resets.
#[derive(Debug, Clone, Default)]
pub struct Meters {
    disks: Vec<Arc<block::Counters>>,
    nets: Vec<Arc<net::Counters>>,
}

impl Meters {
    /// One more disk.
    pub fn add_disk(&mut self, counters: Arc<block::Counters>) {
        self.disks.push(counters);
    }

    /// One more network card.
    pub fn add_net(&mut self, counters: Arc<net::Counters>) {
        self.nets.push(counters);
    }

    /// The sums at this moment.
    pub fn traffic(&self) -> Traffic {
        let disks = |get: fn(&block::Counters) -> u64| Some(self.disks.iter().map(|disk| get(disk)).sum());
        let nets = |get: fn(&net::Counters) -> u64| Some(self.nets.iter().map(|net| get(net)).sum());
        Traffic {
            disk_read: disks(block::Counters::read),
            disk_written: disks(block::Counters::written),
            net_received: nets(|net| net.received_bytes.load(Ordering::Relaxed)),
            net_sent: nets(|net| net.sent_bytes.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_count_together() {
        let mut meters = Meters::default();
        let nets = [Arc::new(net::Counters::default()), Arc::default()];
        for (counters, bytes) in nets.iter().zip([5, 70]) {
            counters.received_bytes.store(bytes, Ordering::Relaxed);
            meters.add_net(counters.clone());
        }
        meters.add_disk(Arc::default());
        let expected =
            Traffic { disk_read: Some(0), disk_written: Some(0), net_received: Some(75), net_sent: Some(0) };
        assert_eq!(meters.traffic(), expected);
    }
}
