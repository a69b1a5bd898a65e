package viproute

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestMain runs the tests as root of a user namespace of their own.
func TestMain(m *testing.M) {
	const inside = "VIPROUTE_GO_TESTS_INSIDE"
	if os.Getenv(inside) != "" {
		// The examples run in this first network namespace.
		if err := addLinks(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := again.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		fmt.Fprintf(os.Stderr, "\n*** SKIPPED the Go tests: no user namespace: %v\n\n", err)
		return
	}
	os.Exit(again.ProcessState.ExitCode())
}

// ip runs ip(8) in the thread's network namespace.
func ip(arguments string) (string, error) {
	output, err := exec.Command("ip", strings.Fields(arguments)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ip %s: %v: %s", arguments, err, bytes.TrimSpace(output))
	}
	return string(output), nil
}

// addLinks makes what a node has: its addresses, and the link of the VIPs. A bridge without ports
// and ARP stands in for a dummy link, which not every kernel has.
func addLinks() error {
	for _, arguments := range []string{
		"link set dev lo up",
		"link add node0 type bridge",
		"link set dev node0 arp off up",
		"addr add 192.0.2.10/32 dev node0",
		"addr add 2001:db8::10/128 dev node0 nodad",
		"link add kube-dummy-if type bridge",
		"link set dev kube-dummy-if arp off up",
	} {
		if _, err := ip(arguments); err != nil {
			return err
		}
	}
	return nil
}

// A node is a network namespace of a test's thread.
type node struct{ *testing.T }

// newNode moves the test's goroutine, with its thread, into a network namespace with links. The
// thread ends with the test.
func newNode(t *testing.T) node {
	t.Helper()
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if err := addLinks(); err != nil {
		t.Fatal(err)
	}
	return node{t}
}

func (n node) ip(arguments string) string {
	n.Helper()
	output, err := ip(arguments)
	if err != nil {
		n.Fatal(err)
	}
	return output
}

// expectRoutes checks the local routes of the link, as ip(8) shows them: these VIPs, each with its
// source, and no others.
func (n node) expectRoutes(vips ...string) {
	n.Helper()
	if wrong := n.wrongRoutes(vips...); wrong != "" {
		n.Fatal(wrong)
	}
}

func (n node) wrongRoutes(vips ...string) string {
	n.Helper()
	routes := map[string]string{}
	for _, family := range []string{"-4", "-6"} {
		for _, line := range strings.Split(n.ip(family+" route show table local type local dev kube-dummy-if"), "\n") {
			fields := strings.Fields(line)
			if len(fields) > 1 && !strings.HasPrefix(fields[1], "fe80:") {
				routes[fields[1]] = line
			}
		}
	}
	for _, vip := range vips {
		source := "src 192.0.2.10 "
		if strings.Contains(vip, ":") {
			source = "src 2001:db8::10 "
		}
		if !strings.Contains(routes[vip]+" ", source) {
			return fmt.Sprintf("%s: no route with %s: %q", vip, source, routes[vip])
		}
		delete(routes, vip)
	}
	if len(routes) > 0 {
		return fmt.Sprintf("other routes: %v", routes)
	}
	return ""
}

func config() Config {
	return Config{
		Link:    "kube-dummy-if",
		Sources: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
	}
}

func addrs(texts ...string) []netip.Addr {
	result := make([]netip.Addr, len(texts))
	for at, text := range texts {
		result[at] = netip.MustParseAddr(text)
	}
	return result
}
