package viproute_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"viproute"
)

// A service has what kube-router reads from a Service.
type service struct {
	clusterIPs, externalIPs, loadBalancerIPs []netip.Addr
}

// A syncer replaces three parts of kube-router's service proxy: ipAddrAdd and ipAddrDel, which add
// and remove the VIPs of a Service one by one, and cleanupStaleVIPs, which removes from
// kube-dummy-if what no Service has any more.
type syncer struct {
	vips *viproute.Manager
}

// sync makes the VIPs on the link those of the services, in one call. It returns the VIPs that
// failed; the others are verified.
func (s *syncer) sync(ctx context.Context, services []service) ([]viproute.Failure, error) {
	var desired []netip.Addr
	for _, service := range services {
		desired = append(desired, service.clusterIPs...)
		desired = append(desired, service.externalIPs...)
		desired = append(desired, service.loadBalancerIPs...)
	}
	// Services never lose more than a hundred VIPs at once. More means that the list is wrong.
	claim := viproute.ClaimLink().AtMost(100)
	report, err := s.vips.Reconcile(ctx, claim, desired)
	if errors.Is(err, viproute.ErrIncomplete) {
		return report.Failures, nil
	}
	if err != nil {
		return nil, err
	}
	fmt.Println(report.Assigned, "assigned,", report.Released, "released")
	return nil, nil
}

// One Reconcile does kube-router's sync.
func Example_kubeRouter() {
	vips, err := viproute.Open(viproute.Config{
		Link:    "kube-dummy-if",
		Sources: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer vips.Close()
	s := &syncer{vips}
	dns := service{clusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("2001:db8:42:1::a")}}
	web := service{
		clusterIPs:  []netip.Addr{netip.MustParseAddr("10.96.17.4")},
		externalIPs: []netip.Addr{netip.MustParseAddr("203.0.113.7")},
	}
	for _, services := range [][]service{{dns, web}, {dns, web}, {dns}} {
		failures, err := s.sync(context.Background(), services)
		for _, failure := range failures {
			fmt.Println(failure)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 4 assigned, 0 released
	// 0 assigned, 0 released
	// 0 assigned, 2 released
}
