//! The series of the traffic, written straight from the totals.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::totals::{Total, Totals};
use crate::apply::traffic::Silent;
use crate::model::family::Family;

#[derive(Debug)]
struct Series(Arc<Totals>);

/// Adds the series to a registry that lives for one scrape.
pub(in crate::admin::metrics) fn register(registry: &mut Registry, totals: Arc<Totals>) {
    registry.register_collector(Box::new(Series(totals)));
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut connections = describe(
            &mut encoder,
            "connections",
            "New connections (flows of UDP) that this node forwarded, by Service port",
        )?;
        self.by_port(|[namespace, service, port], total| {
            let labels = [namespace, service, port];
            counter(&mut connections, &labels, total.connections)
        })?;
        // On nftables alone nobody counts bytes: no rule looks at the packets of a connection.
        let counts = |total: &Total| total.bytes.is_some();
        if self
            .0
            .services
            .values()
            .flat_map(|it| it.values())
            .any(counts)
        {
            let mut bytes = describe(
                &mut encoder,
                "bytes",
                "Bytes that IPVS forwarded from clients (in) and to them (out), by Service port",
            )?;
            self.by_port(|[namespace, service, port], total| {
                let Some(all) = total.bytes else {
                    return Ok(());
                };
                for (direction, number) in [("in", all.from_clients), ("out", all.to_clients)] {
                    let labels = [namespace, service, port, ("direction", direction)];
                    counter(&mut bytes, &labels, number)?;
                }
                Ok(())
            })?;
        }
        self.packets(&mut encoder)?;
        let mut failures = describe(
            &mut encoder,
            "traffic_read_failures",
            "Readings of the kernel's counters that failed; the totals then stay as they were",
        )?;
        ConstCounter::new(self.0.failures).encode(failures.encode_family(&NONE)?)
    }
}

type Label<'a> = (&'static str, &'a str);
/// What is counted of a family.
type What = fn(Family) -> Silent;
const NONE: [Label<'static>; 0] = [];

impl Series {
    fn by_port(&self, mut write: impl FnMut([Label<'_>; 3], &Total) -> fmt::Result) -> fmt::Result {
        for (service, ports) in &self.0.services {
            for (port, total) in ports {
                let port = port.to_string();
                let labels = [
                    ("namespace", &*service.namespace),
                    ("service", &*service.name),
                    ("port", port.as_str()),
                ];
                write(labels, total)?;
            }
        }
        Ok(())
    }

    /// From the start on, so that the first one is a rise.
    fn packets(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |what| self.0.packets.get(&what).copied().unwrap_or_default();
        let all: [(_, _, What); 2] = [
            (
                "fence_dropped_frames",
                "ARP and neighbor discovery frames that spoke for a VIP of other nodes and were kept in",
                Silent::Fenced,
            ),
            (
                "handover_packets",
                "Packets passed on to the node that had their VIP before",
                Silent::HandedOver,
            ),
        ];
        for (name, help, what) in all {
            let mut written = describe(encoder, name, help)?;
            for (label, family) in [("ipv4", Family::V4), ("ipv6", Family::V6)] {
                counter(&mut written, &[("family", label)], of(what(family)))?;
            }
        }
        Ok(())
    }
}

fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn counter<const N: usize>(
    encoder: &mut MetricEncoder<'_>,
    labels: &[Label<'_>; N],
    number: u64,
) -> fmt::Result {
    ConstCounter::new(number).encode(encoder.encode_family(labels)?)
}
