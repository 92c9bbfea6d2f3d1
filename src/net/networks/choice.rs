//! What a network is to be: its subnets, unless they are in somebody's way.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Applicant, NetworkError, Networks, State};
use crate::model::Network;
use crate::net::routes;
use crate::net::switch::Spec;

impl Networks<'_> {
    /// What the network is to be: as the file says, unless others use it otherwise.
    pub(super) fn spec_for(
        &self,
        id: &str,
        network: &Network,
        old: Option<&State>,
        applicant: &Applicant<'_>,
    ) -> Result<Spec, NetworkError> {
        let mut spec = Spec {
            name: network.name.clone(),
            subnets: network.subnets.clone(),
            dhcp: network.dhcp,
            mtu: network.mtu,
        };
        if spec.subnets.is_empty() {
            spec.subnets = match old {
                Some(old) => old.spec.subnets.clone(),
                None => {
                    vec![self.free_subnet(id).ok_or_else(|| NetworkError::NoSubnet(network.name.clone()))?]
                }
            };
        }
        let running = self.running(id);
        if let Some(old) = old.filter(|old| old.spec != spec) {
            if running.as_ref().is_some_and(|ports| ports.iter().any(|port| port.id != applicant.id)) {
                let (now, wanted) = (describe(&old.spec), describe(&spec));
                return Err(NetworkError::InUse { network: network.name.clone(), now, wanted });
            }
            self.end_switch(id)?;
        }
        if running.is_none_or(|ports| ports.is_empty()) {
            let clash =
                spec.subnets.iter().find_map(|net| routes::overlapping(net).map(|route| (*net, route)));
            if let Some((subnet, (route, device))) = clash {
                return Err(NetworkError::HostRoute { network: network.name.clone(), subnet, route, device });
            }
        }
        Ok(spec)
    }

    /// A subnet that nobody has: derived from the network's id, so that it mostly stays the same.
    fn free_subnet(&self, id: &str) -> Option<IpNet> {
        let taken: Vec<IpNet> = self
            .ids()
            .iter()
            .filter_map(|id| self.state(id).ok()?)
            .flat_map(|state| state.spec.subnets)
            .collect();
        let start = u64::from_str_radix(id, 16).unwrap_or_default();
        // 10.128.0.0/9 in subnets of 256.
        (0..1 << 15).find_map(|step| {
            let number = (start.wrapping_add(step) % (1 << 15)) as u32;
            let base = u32::from_be_bytes([10, 128, 0, 0]) + (number << 8);
            let net = IpNet::new(IpAddr::from(base.to_be_bytes()), 24).ok()?;
            let clashes = |other: &IpNet| other.contains(&net.network()) || net.contains(&other.network());
            (!taken.iter().any(clashes) && routes::overlapping(&net).is_none()).then_some(net)
        })
    }
}

fn describe(spec: &Spec) -> String {
    let subnets: Vec<String> = spec.subnets.iter().map(IpNet::to_string).collect();
    let dhcp = if spec.dhcp { "" } else { " without DHCP" };
    format!("{} (MTU {}){dhcp}", subnets.join(" and "), spec.mtu)
}
