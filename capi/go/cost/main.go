// Command cost measures how long Assign takes from Go, for new VIPs and for VIPs that are on the
// link already. capi/bench runs it.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sort"
	"time"

	"viproute"
)

const link = "kube-dummy-if"

var source = netip.MustParseAddr("192.0.2.10")

// A way puts VIPs on the link and removes them.
type way struct {
	name   string
	most   int
	assign func([]netip.Addr) error
}

func vips(n int) []netip.Addr {
	result := make([]netip.Addr, n)
	for at := range result {
		var bytes [4]byte
		binary.BigEndian.PutUint32(bytes[:], 10<<24|96<<16|uint32(at+1))
		result[at] = netip.AddrFrom4(bytes)
	}
	return result
}

func main() {
	manager, err := viproute.Open(viproute.Config{Link: link, Sources: []netip.Addr{source}})
	check(err)
	ctx := context.Background()
	ways := append([]way{{"Go", 10000, func(vips []netip.Addr) error {
		_, err := manager.Assign(ctx, vips)
		return err
	}}}, peers()...)
	for _, way := range ways {
		for _, size := range []struct{ n, rounds int }{{1, 300}, {100, 50}, {10000, 3}} {
			if size.n > way.most {
				continue
			}
			set := vips(size.n)
			var fresh, again []time.Duration
			for round := 0; round < size.rounds; round++ {
				began := time.Now()
				check(way.assign(set))
				fresh = append(fresh, time.Since(began))
				for i := 0; way.name == "Go" && i < 5; i++ {
					began = time.Now()
					check(way.assign(set))
					again = append(again, time.Since(began))
				}
				_, err := manager.Release(ctx, set)
				check(err)
			}
			print(way.name, "new", size.n, fresh)
			print(way.name, "present", size.n, again)
		}
	}
}

// print prints the least in microseconds.
func print(name, what string, n int, times []time.Duration) {
	if len(times) > 0 {
		sort.Slice(times, func(a, b int) bool { return times[a] < times[b] })
		fmt.Printf("%s|%s|%d|%.1f\n", name, what, n, float64(times[0].Nanoseconds())/1000)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
