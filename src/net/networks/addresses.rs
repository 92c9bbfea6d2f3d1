//! Which addresses a machine gets.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Applicant, NetworkError, Seated};
use crate::model::{Card, unusable};
use crate::net::switch::Spec;

/// The addresses for a card, one of each family of the network. Chosen ones give way to declared ones.
pub(super) fn choose(
    spec: &Spec,
    card: &Card,
    applicant: &Applicant<'_>,
    before: Option<&Seated>,
    seats: &mut [Seated],
    runs: &dyn Fn(&Seated) -> bool,
) -> Result<Vec<IpAddr>, NetworkError> {
    let mut list = Vec::new();
    for subnet in &spec.subnets {
        let fits = |ip: &&IpAddr| unusable(subnet, **ip).is_none();
        if let Some(ip) = card.addresses.iter().find(fits) {
            for seat in seats.iter_mut().filter(|seat| seat.member.addresses.contains(ip)) {
                let (machine, project) = (seat.member.machine.clone(), seat.project.clone());
                if runs(seat) || (seat.declared.contains(ip) && project != applicant.project) {
                    return Err(NetworkError::Taken {
                        network: spec.name.clone(),
                        ip: *ip,
                        machine,
                        project,
                    });
                }
                // It gets another one when it starts.
                seat.member.addresses.retain(|other| other != ip);
            }
            list.push(*ip);
            continue;
        }
        // Another server gives it one, and we do not hear which.
        if card.dhcp && !spec.dhcp && subnet.addr().is_ipv4() {
            continue;
        }
        let free = |ip: &IpAddr| {
            unusable(subnet, *ip).is_none()
                && !applicant.avoid.contains(ip)
                && !seats.iter().any(|seat| seat.member.addresses.contains(ip))
        };
        let kept = before.and_then(|seat| seat.member.addresses.iter().find(|ip| free(ip)).copied());
        let chosen = kept.or_else(|| hosts(subnet).find(free));
        let (network, subnet) = (spec.name.clone(), *subnet);
        list.push(chosen.ok_or(NetworkError::Full { network, subnet })?);
    }
    Ok(list)
}

/// Addresses of a subnet that are chosen from, in this order: not the first, which people like to give to
/// routers.
fn hosts(subnet: &IpNet) -> impl Iterator<Item = IpAddr> + use<> {
    let base = match subnet.network() {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let is_v4 = subnet.addr().is_ipv4();
    (2..1 << 16).map_while(move |n| match is_v4 {
        true => u32::try_from(base + n).ok().map(|bits| IpAddr::from(bits.to_be_bytes())),
        false => base.checked_add(n).map(|bits| IpAddr::from(bits.to_be_bytes())),
    })
}
