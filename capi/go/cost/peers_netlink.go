//go:build netlink

package main

import (
	"net"
	"net/netip"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peers are ways to put the same VIPs on the link with the package netlink. Neither verifies
// anything.
func peers() []way {
	dummy, err := netlink.LinkByName(link)
	check(err)
	add := func(vip netip.Addr) (*net.IPNet, error) {
		host := &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}
		return host, netlink.AddrAdd(dummy, &netlink.Addr{IPNet: host, Scope: unix.RT_SCOPE_LINK})
	}
	return []way{
		{"netlink and a process for each route, as kube-router", 100, each(func(vip netip.Addr) error {
			if _, err := add(vip); err != nil {
				return err
			}
			return exec.Command("ip", "route", "replace", "local", vip.String(), "dev", link, "table", "local",
				"proto", "kernel", "scope", "host", "src", source.String()).Run()
		})},
		{"netlink for both", 10000, each(func(vip netip.Addr) error {
			host, err := add(vip)
			if err != nil {
				return err
			}
			return netlink.RouteReplace(&netlink.Route{
				LinkIndex: dummy.Attrs().Index, Dst: host, Src: source.AsSlice(), Table: unix.RT_TABLE_LOCAL,
				Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL, Scope: unix.RT_SCOPE_HOST,
			})
		})},
	}
}

func each(put func(netip.Addr) error) func([]netip.Addr) error {
	return func(vips []netip.Addr) error {
		for _, vip := range vips {
			if err := put(vip); err != nil {
				return err
			}
		}
		return nil
	}
}
