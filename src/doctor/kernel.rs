//! Whether the kernel has what `proxy.datapath` needs: built in, loaded, or to be loaded when it is
//! asked for. Reads what the kernel and its package say; loads nothing.

use std::collections::BTreeSet;
use std::fs;

use super::{Finding, Level, Section};
use crate::config::{Config, Datapath};

/// What both datapaths need: module, and a symbol that a kernel with it built in has.
const ALWAYS: &[(&str, &str)] = &[
    ("nf_conntrack", "nf_conntrack_in"),
    ("nf_tables", "nf_tables_newtable"),
    ("nft_ct", "nft_ct_get_eval"),
    ("nft_fib_inet", "nft_fib_inet_eval"),
    ("nft_masq", "nft_masq_eval"),
    ("nft_nat", "nft_nat_eval"),
    ("nft_numgen", "nft_ng_random_eval"),
    ("nft_reject_inet", "nft_reject_inet_eval"),
];

/// What the IPVS datapath needs on top of that, but for the scheduler.
const IPVS: &[(&str, &str)] = &[("ip_vs", "ip_vs_conn_new")];

/// The findings of this section.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let kernel = Kernel::look();
    let scheduler = format!("ip_vs_{}", config.proxy.scheduler);
    let scheduler_symbol = format!("ip_vs_{}_scheduler", config.proxy.scheduler);
    let mut ipvs = IPVS.to_vec();
    ipvs.push((&scheduler, &scheduler_symbol));
    judge(config.proxy.datapath, &ipvs, &kernel)
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::Kernel, level, message)
    }
}

/// Whether the kernel has a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    /// A file that is loaded on demand.
    OnDemand,
    Missing,
    /// Neither the kernel nor its package says.
    Unknown,
}

fn judge(datapath: Datapath, ipvs: &[(&str, &str)], kernel: &Kernel) -> Vec<Finding> {
    let mut findings: Vec<Finding> = ALWAYS
        .iter()
        .filter_map(|module| kernel.judge(*module, "edgelb"))
        .collect();
    let without_ipvs = ipvs
        .iter()
        .filter(|module| kernel.presence(**module) == Presence::Missing);
    match datapath {
        Datapath::Nftables => {}
        Datapath::Ipvs => {
            let wanted = "proxy.datapath = \"ipvs\"";
            findings.extend(ipvs.iter().filter_map(|it| kernel.judge(*it, wanted)));
        }
        // One is enough to do without.
        Datapath::Auto => findings.extend(without_ipvs.take(1).map(|(module, _)| {
            let message = format!("this kernel has no {module}: nftables forwards");
            let remedy = format!("nothing, or, for IPVS, {}", package());
            finding(Level::Info, message, Some(remedy))
        })),
    }
    if findings.iter().all(|found| found.level <= Level::Info) {
        let name = match datapath {
            Datapath::Auto => "auto",
            Datapath::Ipvs => "ipvs",
            Datapath::Nftables => "nftables",
        };
        let release = &kernel.release;
        let message = format!("Linux {release} has what proxy.datapath = \"{name}\" needs");
        findings.insert(0, finding(Level::Fine, message, None));
    }
    findings
}

/// What the kernel and its package say of modules, all with `_` in their names.
#[derive(Debug, Default)]
struct Kernel {
    release: String,
    /// Loaded, or built in.
    there: BTreeSet<String>,
    /// Symbols of the kernel, where it has no list of files.
    symbols: BTreeSet<String>,
    /// Files that can be loaded; none where there is no such list.
    files: Option<BTreeSet<String>>,
    /// Nothing more can be loaded until the next boot.
    closed: bool,
    /// Whether all symbols could be seen.
    told: bool,
}

impl Kernel {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path);
        let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release = release.trim().to_owned();
        let directory = format!("/lib/modules/{release}");
        let loaded = read("/proc/modules").unwrap_or_default();
        let built_in = read(&format!("{directory}/modules.builtin")).unwrap_or_default();
        let mut there: BTreeSet<String> = (loaded.lines())
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect();
        there.extend(built_in.lines().map(module_of));
        let files = read(&format!("{directory}/modules.dep")).ok();
        let files = files.map(|text| {
            let lines = text.lines().filter_map(|line| line.split(':').next());
            lines.map(module_of).collect()
        });
        // Only where there is no such list: they are very many.
        let symbols = match files {
            Some(_) => String::new(),
            None => read("/proc/kallsyms").unwrap_or_default(),
        };
        let closed = read("/proc/sys/kernel/modules_disabled").is_ok_and(|it| it.trim() == "1");
        Self {
            release,
            there,
            told: !symbols.is_empty(),
            symbols: (symbols.lines())
                .filter_map(|line| line.split_whitespace().nth(2))
                // The compiler splits functions.
                .filter_map(|name| name.split('.').next())
                .map(str::to_owned)
                .collect(),
            files,
            closed,
        }
    }

    fn presence(&self, (module, symbol): (&str, &str)) -> Presence {
        if self.there.contains(module) || self.symbols.contains(symbol) {
            return Presence::There;
        }
        match &self.files {
            Some(files) if files.contains(module) => Presence::OnDemand,
            // A kernel without loadable modules has no list of them.
            None if !self.told => Presence::Unknown,
            _ => Presence::Missing,
        }
    }

    fn judge(&self, module: (&str, &str), wanted: &str) -> Option<Finding> {
        let (name, release) = (module.0, &self.release);
        match self.presence(module) {
            Presence::There => None,
            Presence::OnDemand if !self.closed => None,
            Presence::OnDemand => Some(finding(
                Level::Problem,
                format!(
                    "module {name}, which {wanted} needs, cannot be loaded: kernel.modules_disabled is 1"
                ),
                Some(format!(
                    "echo {name} > /etc/modules-load.d/{name}.conf, and boot anew"
                )),
            )),
            Presence::Missing => Some(finding(
                Level::Problem,
                format!("Linux {release} has no {name}, which {wanted} needs"),
                Some(package()),
            )),
            Presence::Unknown => Some(finding(
                Level::Warning,
                format!("cannot tell whether Linux {release} has {name}, which {wanted} needs"),
                Some(format!("modprobe {name}")),
            )),
        }
    }
}

/// How to get a kernel that has everything.
fn package() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("boot a kernel that has it, such as Debian's: apt install linux-image-{architecture}")
}

/// `kernel/net/netfilter/ipvs/ip_vs.ko.xz` → `ip_vs`
fn module_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    let name = file.split(".ko").next().unwrap_or_default();
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(ToString::to_string).collect()
    }

    fn levels(datapath: Datapath, kernel: &Kernel) -> Vec<Level> {
        let ipvs = [("ip_vs", "ip_vs_conn_new"), ("ip_vs_rr", "x")];
        let findings = judge(datapath, &ipvs, kernel);
        for found in &findings {
            assert_eq!(
                found.level == Level::Fine,
                found.remedy.is_none(),
                "{found:?}"
            );
        }
        findings.into_iter().map(|found| found.level).collect()
    }

    #[test]
    fn what_is_missing_is_named_by_datapath() {
        let names: Vec<&str> = ALWAYS.iter().map(|(name, _)| *name).collect();
        let mut kernel = Kernel {
            there: words(&names),
            files: Some(words(&["ip_vs"])),
            told: true,
            ..Kernel::default()
        };
        assert_eq!(levels(Datapath::Nftables, &kernel), [Level::Fine]);
        // The scheduler's module is not there.
        assert_eq!(levels(Datapath::Ipvs, &kernel), [Level::Problem]);
        assert_eq!(levels(Datapath::Auto, &kernel), [Level::Fine, Level::Info]);
        kernel.files = Some(words(&["ip_vs", "ip_vs_rr"]));
        assert_eq!(levels(Datapath::Ipvs, &kernel), [Level::Fine]);
        kernel.closed = true;
        assert_eq!(levels(Datapath::Ipvs, &kernel), [Level::Problem; 2]);
        kernel.there.remove("nft_masq");
        assert_eq!(levels(Datapath::Nftables, &kernel), [Level::Problem]);
        kernel.symbols = words(&["nft_masq_eval"]);
        assert_eq!(levels(Datapath::Nftables, &kernel), [Level::Fine]);
        assert_eq!(module_of("kernel/net/ipvs/ip-vs.ko.xz"), "ip_vs");
    }
}
