// Command kube_router puts VIPs on kube-dummy-if by the method of kube-router 2: ipAddrAdd, ipAddrDel and cleanupStaleVIPs
// of its pkg/controllers/proxy, with the package netlink that kube-router uses. It has no API server, no IPVS and no
// firewall. tests/k8s/run --measure runs it beside the controller:
//
//	kube_router FILE    the VIPs, one on each line
//
// It prints "ready" after the first sync. From SIGUSR1 on, it makes ten changes a second: a VIP is added, and removed by the
// next change. A change requests a sync, and a sync treats every VIP, as kube-router's does. Requests that come while a sync
// is due already are dropped.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const name = "kube-dummy-if"

var (
	sources = []net.IP{net.IPv4(192, 0, 2, 10), net.ParseIP("2001:db8::10")}
	extra   = []string{"10.96.255.254", "2001:db8:42:1::fffe"}
)

// A set has the VIPs that shall be on the link.
type set struct {
	mutex sync.Mutex
	vips  map[string]bool
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	check(err)
	desired := set{vips: map[string]bool{}}
	for _, vip := range strings.Fields(string(text)) {
		desired.vips[vip] = true
	}
	requests := make(chan struct{}, 1)
	start := make(chan os.Signal, 1)
	signal.Notify(start, syscall.SIGUSR1)
	check(desired.sync())
	fmt.Println("ready")
	go func() {
		<-start
		for range time.Tick(100 * time.Millisecond) {
			desired.change()
			select {
			case requests <- struct{}{}:
			default:
			}
		}
	}()
	for range requests {
		check(desired.sync())
	}
}

// change adds the extra VIPs, or removes them.
func (s *set) change() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, vip := range extra {
		if s.vips[vip] {
			delete(s.vips, vip)
		} else {
			s.vips[vip] = true
		}
	}
}

// sync adds every VIP, and removes the addresses that are no VIPs.
func (s *set) sync() error {
	s.mutex.Lock()
	vips := make(map[string]bool, len(s.vips))
	for vip := range s.vips {
		vips[vip] = true
	}
	s.mutex.Unlock()
	for vip := range vips {
		if err := add(net.ParseIP(vip)); err != nil {
			return fmt.Errorf("%s: %w", vip, err)
		}
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addresses, err := netlink.AddrList(link, family)
		if err != nil {
			return err
		}
		for _, address := range addresses {
			if !vips[address.IP.String()] && !address.IP.IsLinkLocalUnicast() {
				if err := remove(link, family, address.IP); err != nil {
					return fmt.Errorf("%s: %w", address.IP, err)
				}
			}
		}
	}
	return nil
}

// host returns the prefix of one address, and the node's source for it.
func host(vip net.IP) (*net.IPNet, net.IP) {
	if v4 := vip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}, sources[0]
	}
	return &net.IPNet{IP: vip, Mask: net.CIDRMask(128, 128)}, sources[1]
}

func localRoute(link netlink.Link, vip net.IP) *netlink.Route {
	prefix, source := host(vip)
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Dst: prefix, Src: source, Table: unix.RT_TABLE_LOCAL,
		Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL, Scope: unix.RT_SCOPE_HOST,
	}
}

// add adds the address and replaces its route. In IPv6 it then reads all routes, and deletes those to the VIP that have another
// source.
func add(vip net.IP) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	prefix, source := host(vip)
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: prefix, Scope: unix.RT_SCOPE_LINK})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := netlink.RouteReplace(localRoute(link, vip)); err != nil {
		return err
	}
	if vip.To4() != nil {
		return nil
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Dst: prefix},
		netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for at := range routes {
		if !routes[at].Src.Equal(source) {
			// kube-router logs what fails here, and goes on.
			_ = netlink.RouteDel(&routes[at])
		}
	}
	return nil
}

// remove removes the address and its route, after it has read the addresses of the link and the routes of the node.
func remove(link netlink.Link, family int, vip net.IP) error {
	addresses, err := netlink.AddrList(link, family)
	if err != nil {
		return err
	}
	prefix, _ := host(vip)
	for _, address := range addresses {
		if address.IP.Equal(vip) {
			err := netlink.AddrDel(link, &netlink.Addr{IPNet: prefix, Scope: unix.RT_SCOPE_LINK})
			if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
	}
	route := localRoute(link, vip)
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, route, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_DST|
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_SRC)
	if err != nil {
		return err
	}
	if len(routes) > 0 {
		if err := netlink.RouteDel(route); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
