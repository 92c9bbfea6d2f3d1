//! Virtio devices against good and bad drivers, without KVM: registers and queues as a guest would
//! use them, real devices behind them.

mod balloon;
mod block;
mod block_images;
mod block_queues;
mod block_space;
mod block_sync;
mod chain;
mod console;
mod driver;
mod fs;
mod mmio;
mod net;
mod net_offload;
mod net_pairs;
mod net_stream;
mod net_vhost;
mod pci;
mod pci_driver;
mod ports;
mod qcow2_check;
mod queue;
mod rng;
mod states;
mod vsock;
mod vsock_abuse;
mod vsock_forward;
mod vsock_guest;
