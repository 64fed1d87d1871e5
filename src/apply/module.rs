//! What to do where the kernel lacks a module: one sentence that names command and package.
//!
//! The kernel loads modules by itself on first use; this is for where it could not.

use std::path::Path;

/// What to do to get `module` (`ip_vs_wrr`), depending on what this machine has.
pub fn remedy(module: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let release = release.trim();
    let index = read(&format!("/lib/modules/{release}/modules.dep"));
    let built_in = read(&format!("/lib/modules/{release}/modules.builtin"));
    let forbidden = read("/proc/sys/kernel/modules_disabled").trim() == "1";
    sentence(
        module,
        release,
        Installed {
            index: Path::new("/lib/modules").exists().then_some(&index),
            built_in: &built_in,
        },
        forbidden,
    )
}

/// The lists of modules of the running kernel.
#[derive(Clone, Copy)]
struct Installed<'a> {
    /// `modules.dep`; none where this process sees no modules at all.
    index: Option<&'a str>,
    /// `modules.builtin`
    built_in: &'a str,
}

fn sentence(module: &str, release: &str, installed: Installed<'_>, forbidden: bool) -> String {
    // modules.dep: path/name.ko.xz: what it needs
    let has = |list: &str| {
        list.lines().any(|line| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            file.split('.').next() == Some(module)
        })
    };
    if forbidden {
        return format!(
            "kernel.modules_disabled=1 forbids to load the module {module} until the next boot: write \
             \"{module}\" to /etc/modules-load.d/edgelb.conf and reboot"
        );
    }
    match installed.index {
        Some(index) if has(index) || has(installed.built_in) => {
            format!("load the module with \"modprobe {module}\" (as root, outside of containers)")
        }
        Some(index) if !index.is_empty() => format!(
            "install the package with the module {module} (Debian linux-image-{release}, Ubuntu \
             linux-modules-extra-{release}, Fedora and RHEL kernel-modules-{release}), then \"modprobe {module}\""
        ),
        Some(_) | None => format!(
            "load the module with \"modprobe {module}\" on the host (Debian has it in \
             linux-image-{release}, Ubuntu in linux-modules-extra-{release}, Fedora and RHEL in \
             kernel-modules-{release})"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz\n\
                         kernel/net/netfilter/ipvs/ip_vs_rr.ko: kernel/net/netfilter/ipvs/ip_vs.ko\n";

    fn of(module: &str, index: Option<&str>, forbidden: bool) -> String {
        let built_in = "kernel/net/netfilter/nf_tables.ko\n";
        sentence(module, "6.12.1", Installed { index, built_in }, forbidden)
    }

    #[test]
    fn an_installed_module_is_only_to_be_loaded() {
        for module in ["ip_vs", "ip_vs_rr", "nf_tables"] {
            let text = of(module, Some(INDEX), false);
            assert!(text.contains(&format!("modprobe {module}\"")), "{text}");
            assert!(!text.contains("package"), "{text}");
        }
    }

    #[test]
    fn one_that_is_not_installed_has_a_package() {
        let text = of("ip_vs_wrr", Some(INDEX), false);
        assert!(
            text.starts_with("install the package") && text.contains("linux-modules-extra-6.12.1"),
            "{text}"
        );
    }

    #[test]
    fn in_a_container_the_host_is_meant() {
        assert!(of("ip_vs", None, false).contains("on the host"));
        assert!(of("ip_vs", Some(""), false).contains("on the host"));
    }

    #[test]
    fn where_loading_is_forbidden_no_command_helps() {
        let text = of("ip_vs", Some(INDEX), true);
        assert!(
            text.contains("modules_disabled") && text.contains("reboot"),
            "{text}"
        );
    }
}
