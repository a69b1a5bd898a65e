package viproute

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var ctx = context.Background()

func (n node) open(config Config) *Manager {
	n.Helper()
	manager, err := Open(config)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { manager.Close() })
	return manager
}

func TestVIPsAreAssignedRepairedAndReleased(t *testing.T) {
	n := newNode(t)
	manager, vips := n.open(config()), addrs("10.96.0.10", "2001:db8:42:1::d45a")
	report, err := manager.Assign(ctx, vips)
	if err != nil || report.Assigned != 2 || len(report.Outcomes) != 2 {
		t.Fatal(report, err)
	}
	n.expectRoutes("10.96.0.10", "2001:db8:42:1::d45a")

	n.ip("route del table local local 10.96.0.10 dev kube-dummy-if")
	audit, err := manager.Audit(ctx, AuditNode)
	if err != nil || audit.Clean || len(audit.VIPs) != 2 || audit.VIPs[0].Drift != MissingRoute {
		t.Fatal(audit, err)
	}
	if text := (MissingRoute | Diverted).String(); text != "missing route, diverted" {
		t.Fatal(text)
	}
	report, err = manager.Normalize(ctx)
	want := Outcome{vips[0], Repaired, MissingRoute}
	if err != nil || len(report.Outcomes) != 1 || report.Outcomes[0] != want {
		t.Fatal(report, err)
	}
	if audit, err = manager.Audit(ctx, AuditLink); err != nil || !audit.Clean || !audit.VIPs[1].Judged {
		t.Fatal(audit, err)
	}

	n.ip("addr add 192.0.2.11/32 dev node0")
	if report, err = manager.SetSource(ctx, netip.MustParseAddr("192.0.2.11")); err != nil || report.Repaired != 1 {
		t.Fatal(report, err)
	}
	if report, err = manager.Release(ctx, vips); err != nil || report.Released != 2 {
		t.Fatal(report, err)
	}
	n.expectRoutes()
}

func TestReconcileReleasesWhatTheClaimCovers(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	if _, err := manager.Assign(ctx, addrs("10.96.0.1", "10.96.0.2", "10.97.0.1")); err != nil {
		t.Fatal(err)
	}
	desired := addrs("10.96.0.3")
	if _, err := manager.Reconcile(ctx, ClaimLink().AtMost(2), desired); !errors.Is(err, ErrTooManyReleases) {
		t.Fatal(err)
	}
	claim := ClaimRanges(netip.MustParsePrefix("10.96.0.0/16"))
	report, err := manager.Reconcile(ctx, claim, desired)
	if err != nil || report.Assigned != 1 || report.Released != 2 {
		t.Fatal(report, err)
	}
	n.expectRoutes("10.96.0.3", "10.97.0.1")
	if _, err := manager.Reconcile(ctx, claim, nil); !errors.Is(err, ErrEmptySet) {
		t.Fatal(err)
	}
	// No claim is not every claim.
	if _, err := manager.ReleaseAll(ctx, Claim{}); !errors.Is(err, ErrInvalidConfig) {
		t.Fatal(err)
	}
	if report, err := manager.ReleaseAll(ctx, ClaimLink()); err != nil || report.Released != 2 {
		t.Fatal(report, err)
	}
}

func TestOnlyTheGivenVIPsAreAuditedAndNormalized(t *testing.T) {
	n := newNode(t)
	manager, vips := n.open(config()), addrs("10.96.0.10", "10.96.0.11")
	if _, err := manager.Assign(ctx, vips); err != nil {
		t.Fatal(err)
	}
	n.ip("route del table local local 10.96.0.10 dev kube-dummy-if")
	n.ip("route del table local local 10.96.0.11 dev kube-dummy-if")
	audit, err := manager.AuditOnly(ctx, vips[1:])
	want := Audited{vips[1], MissingRoute, true}
	if err != nil || audit.Clean || len(audit.VIPs) != 1 || audit.VIPs[0] != want {
		t.Fatal(audit, err)
	}
	report, err := manager.NormalizeOnly(ctx, append(addrs("10.96.0.99"), vips[1]))
	if !errors.Is(err, ErrIncomplete) || report.Repaired != 1 || report.Failures[0].Cause != CauseNotOnLink {
		t.Fatal(report, err)
	}
	n.expectRoutes("10.96.0.11")
}

func TestBindingMovesTheVIPs(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	if _, err := manager.Assign(ctx, addrs("10.96.0.10", "2001:db8:42:1::1")); err != nil {
		t.Fatal(err)
	}
	report, err := manager.SetBinding(ctx, BindRoute)
	if addresses := n.ip("addr show dev kube-dummy-if"); err != nil || report.Repaired != 2 ||
		strings.Contains(addresses, "10.96.0.10") {
		t.Fatal(report, err, addresses)
	}
	if report, err = manager.SetBinding(ctx, BindAddress); err != nil || report.Repaired != 2 {
		t.Fatal(report, err)
	}
	if audit, err := manager.Audit(ctx, AuditNode); err != nil || !audit.Clean || len(audit.VIPs) != 2 {
		t.Fatal(audit, err)
	}
	if _, err := manager.SetBinding(ctx, "both"); !errors.Is(err, ErrInvalidArgument) {
		t.Fatal(err)
	}
}

func TestPlansWriteNothing(t *testing.T) {
	n := newNode(t)
	manager, vips := n.open(config()), addrs("10.96.0.10")
	plan, err := manager.PlanAssign(ctx, vips)
	var data struct {
		Steps []struct{ Action, Reason, VIP string }
	}
	if err != nil || json.Unmarshal(plan.JSON, &data) != nil || len(data.Steps) < 2 ||
		data.Steps[0].Action != "add_address" || data.Steps[0].VIP != "10.96.0.10" {
		t.Fatal(data, err)
	}
	n.expectRoutes()
	// The script does what the call would do.
	script := exec.Command("sh", "-e")
	script.Stdin = strings.NewReader(plan.Script)
	if output, err := script.CombinedOutput(); err != nil {
		t.Fatal(err, string(output))
	}
	n.expectRoutes("10.96.0.10")
	if plan, err = manager.PlanRelease(ctx, vips); err != nil || !strings.Contains(plan.Script, "10.96.0.10") {
		t.Fatal(plan, err)
	}
	if plan, err = manager.Plan(ctx, ClaimLink(), vips); err != nil || strings.Contains(string(plan.JSON), "10.96.0.10") {
		t.Fatal(plan, err)
	}
	if _, err := manager.Plan(ctx, Claim{}, vips); !errors.Is(err, ErrInvalidConfig) {
		t.Fatal(err)
	}
}

func TestErrorsSayWhatFailed(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	report, err := manager.Assign(ctx, addrs("127.0.0.1", "10.96.0.10"))
	if !errors.Is(err, ErrIncomplete) || errors.Is(err, ErrSystem) || report.Assigned != 1 {
		t.Fatal(report, err)
	}
	failure := report.Failures[0]
	if failure.VIP != netip.MustParseAddr("127.0.0.1") || failure.Cause != CauseRejected ||
		failure.Reason != RejectLoopback || failure.Error() == "" {
		t.Fatal(failure)
	}
	if name := failure.Cause.String() + " " + failure.Reason.String(); name != "rejected loopback" {
		t.Fatal(name)
	}

	_, err = Open(Config{Link: "kube-dummy-if", Netns: "/proc/self/ns/none"})
	var typed *Error
	if !errors.Is(err, ErrInvalidNetns) || !errors.Is(err, syscall.ENOENT) || !errors.Is(err, os.ErrNotExist) ||
		!errors.As(err, &typed) || typed.Code.Error() != "viproute: invalid_netns" {
		t.Fatal(err)
	}
	if _, err := Open(Config{}); !errors.Is(err, ErrInvalidConfig) {
		t.Fatal(err)
	}
	if _, err := manager.Assign(ctx, []netip.Addr{{}}); !errors.Is(err, ErrInvalidArgument) {
		t.Fatal(err)
	}
	if report, err := manager.Assign(ctx, nil); err != nil || report.Writes != 0 {
		t.Fatal(report, err)
	}
	if Version() == "" || Code(99).Error() != "viproute: unknown code" {
		t.Fatal(Version())
	}
	manager.Close()
	manager.Close()
	if _, err := manager.Normalize(ctx); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

func TestConfigurationReachesTheLibrary(t *testing.T) {
	n := newNode(t)
	full := Config{
		LinkIndex: 3, Netns: "/proc/thread-self/ns/net", Sources: addrs("192.0.2.10"), KernelSource: []Family{IPv6},
		Protocol: 99, AddressProtocol: 99, Binding: "address", AvoidAsSource: "address_label", AddressLabel: 7,
		Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, BringUp: true,
		Deny:                []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")},
		StallTimeoutSeconds: 0.5, TotalTimeoutSeconds: 60, ReceiveBuffer: 1 << 16,
	}
	manager := n.open(full)
	report, err := manager.Assign(ctx, addrs("10.0.0.1", "11.0.0.1", "10.200.0.1"))
	if !errors.Is(err, ErrIncomplete) || report.Assigned != 1 || len(report.Failures) != 2 {
		t.Fatal(report, err)
	}
	if routes := n.ip("route show table local proto 99"); routes == "" {
		t.Fatal("no route of protocol 99")
	}
	n.ip("link del kube-dummy-if")
	created := config()
	created.CreateLink = "bridge"
	if _, err := n.open(created).Assign(ctx, addrs("10.96.0.10")); err != nil {
		t.Fatal(err)
	}
	n.expectRoutes("10.96.0.10")
}

// An endsInCall is a context that ends when a call has begun to use it.
type endsInCall struct {
	context.Context
	end context.CancelFunc
}

func (c endsInCall) Done() <-chan struct{} {
	c.end()
	return c.Context.Done()
}

func TestEndOfTheContextEndsTheCall(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	many := make([]netip.Addr, 0, 20000)
	for vip := netip.MustParseAddr("2001:db8:1::1"); len(many) < cap(many); vip = vip.Next() {
		many = append(many, vip)
	}
	over, cancel := context.WithTimeout(ctx, 0)
	defer cancel()
	if report, err := manager.Assign(over, many); report != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(report, err)
	}
	soon, cancel := context.WithCancel(ctx)
	report, err := manager.Assign(endsInCall{soon, cancel}, many)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrCancelled) || len(report.Failures) == 0 {
		t.Fatal(err)
	}
	// A cancellation that comes after its call does not stop another context's call.
	for i := 0; i < 200; i++ {
		short, cancel := context.WithCancel(ctx)
		go cancel()
		manager.Assign(short, addrs("10.96.0.1"))
		if report, err := manager.Assign(ctx, addrs("10.96.0.1")); err != nil {
			t.Fatal(i, report, err)
		}
	}
}

func TestManagerServesSeveralGoroutines(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		vip := addrs("10.96.1." + string(rune('1'+i)))
		group.Add(1)
		go func() {
			defer group.Done()
			for i := 0; i < 20; i++ {
				if _, err := manager.Assign(ctx, vip); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	group.Wait()
	n.expectRoutes("10.96.1.1", "10.96.1.2", "10.96.1.3", "10.96.1.4")
}

func (n node) openKeeper() *Keeper {
	n.Helper()
	keeper, err := OpenKeeper(config(), ClaimLink())
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { keeper.Close() })
	return keeper
}

// eventually waits for the keeper, which works in another goroutine.
func (n node) eventually(vips ...string) {
	n.Helper()
	for i := 0; i < 1000; i++ {
		if n.wrongRoutes(vips...) == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.expectRoutes(vips...)
}

func TestKeeperRepairsUntilTheContextEnds(t *testing.T) {
	n := newNode(t)
	keeper := n.openKeeper()
	short, cancel := context.WithCancel(ctx)
	ended, news := make(chan error), make(chan Dispatched, 100)
	go func() { ended <- keeper.Run(short, func(done Dispatched) { news <- done }) }()

	if err := keeper.Set(addrs("10.96.0.1", "2001:db8:42:1::1")); err != nil {
		t.Fatal(err)
	}
	n.eventually("10.96.0.1", "2001:db8:42:1::1")
	n.ip("route del table local local 10.96.0.1 dev kube-dummy-if")
	n.eventually("10.96.0.1", "2001:db8:42:1::1")
	if err := keeper.Add(addrs("10.96.0.2")); err != nil {
		t.Fatal(err)
	}
	if err := keeper.Remove(addrs("10.96.0.1", "2001:db8:42:1::1")); err != nil {
		t.Fatal(err)
	}
	n.eventually("10.96.0.2")
	if err := keeper.SetSource(netip.MustParseAddr("224.0.0.1")); !errors.Is(err, ErrInvalidConfig) {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if done := <-news; !done.News || done.Report.Assigned != 2 {
		// The order may come before the first dispatch or after it.
		if done = <-news; done.Report.Assigned != 2 {
			t.Fatal(done.Report)
		}
	}
	if counters := keeper.Counters(); counters.Repairs < 6 || counters.Released != 2 {
		t.Fatal(counters)
	}

	// Another Run goes on with the same set, and Close ends it.
	go func() { ended <- keeper.Run(ctx, nil) }()
	n.ip("addr del 10.96.0.2/32 dev kube-dummy-if")
	n.eventually("10.96.0.2")
	keeper.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if err := keeper.Set(nil); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if counters := keeper.Counters(); counters != (Counters{}) {
		t.Fatal(counters)
	}
	n.expectRoutes("10.96.0.2")
}

func TestKeeperSaysWhatIsMissing(t *testing.T) {
	n := newNode(t)
	keeper := n.openKeeper()
	n.ip("addr del 192.0.2.10/32 dev node0")
	if err := keeper.Set(addrs("10.96.0.1", "2001:db8:42:1::1")); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	before, err := keeper.Status()
	if want := (FamilyStatus{1, 0, Never, 0, Never}); err != nil || before.IPv4 != want || before.LastDispatch != Never {
		t.Fatal(before, err)
	}
	var missing Code
	err = keeper.Run(short, func(done Dispatched) {
		missing = done.MissingIPv4
		// Orders may come from the callback.
		if err := keeper.Add(addrs("10.96.0.2")); err != nil {
			t.Error(err)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) || missing != ErrSourceNotOnNode {
		t.Fatal(err, missing)
	}
	after, err := keeper.Status()
	if err != nil || after.IPv4.Missing != ErrSourceNotOnNode || after.IPv4.Waiting < 0 || after.LastDispatch < 0 ||
		after.IPv6.Failing != 0 || after.IPv6.LastSuccess < 0 {
		t.Fatal(after, err)
	}
	keeper.Close()
	if _, err := keeper.Status(); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

func TestWatcherReturnsEventsUntilItsEnd(t *testing.T) {
	n := newNode(t)
	manager := n.open(config())
	watcher, err := manager.Watch()
	if err != nil {
		t.Fatal(err)
	}
	next := func() Event {
		t.Helper()
		long, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		event, err := watcher.Next(long)
		if err != nil {
			t.Fatal(err)
		}
		return event
	}
	vip := addrs("10.96.0.1")
	if _, err := manager.Assign(ctx, vip); err != nil {
		t.Fatal(err)
	}
	event := next()
	if event.Kind != EventVIP || event.Address != vip[0] || event.Change&(AddressSet|RouteSet) != AddressSet|RouteSet ||
		event.Origin&ByManager == 0 || event.Origin&ByOther != 0 {
		t.Fatal(event)
	}
	// The watcher outlives the manager.
	manager.Close()
	n.ip("addr add 192.0.2.12/32 dev node0")
	n.ip("link set dev kube-dummy-if down")
	if event = next(); event.Kind != EventNodeAddressSet || event.Address != addrs("192.0.2.12")[0] {
		t.Fatal(event)
	}
	for event.Kind != EventLinkDown {
		event = next()
	}
	if event.Index == 0 || event.Address.IsValid() || event.Kind.String() != "link_down" {
		t.Fatal(event)
	}
	if _, err := manager.Watch(); !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}

func TestContextAndCloseEndTheWaitForAnEvent(t *testing.T) {
	n := newNode(t)
	watcher, err := n.open(config()).Watch()
	if err != nil {
		t.Fatal(err)
	}
	// The kernel reports new links again within a second (net/core/link_watch.c). Afterwards no notification
	// ends the wait.
	time.Sleep(1500 * time.Millisecond)
	ends := func(ctx context.Context, want error) {
		t.Helper()
		ended := make(chan error, 1)
		go func() {
			var err error
			for err == nil {
				_, err = watcher.Next(ctx)
			}
			ended <- err
		}()
		select {
		case err := <-ended:
			if !errors.Is(err, want) {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("the wait has not ended")
		}
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	ends(short, context.DeadlineExceeded)
	go func() {
		time.Sleep(50 * time.Millisecond)
		watcher.Close()
	}()
	ends(ctx, os.ErrClosed)
	ends(ctx, os.ErrClosed)
}

// processorTime is what the process has used so far.
func processorTime() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func TestIdleKeeperRestsAndWakesUp(t *testing.T) {
	n := newNode(t)
	keeper := n.openKeeper()
	// Until the keeper has read the notifications of its own changes, and waits.
	const quiet = 300 * time.Millisecond
	ended := make(chan error)
	short, cancel := context.WithCancel(ctx)
	go func() { ended <- keeper.Run(short, nil) }()
	// The kernel reports new links again within a second (net/core/link_watch.c).
	time.Sleep(5 * quiet)
	before := processorTime()
	time.Sleep(quiet)
	if used := processorTime() - before; used > quiet/5 {
		t.Fatalf("the idle keeper used %v of %v", used, quiet)
	}
	if err := keeper.Set(addrs("10.96.0.1")); err != nil {
		t.Fatal(err)
	}
	n.eventually("10.96.0.1")
	time.Sleep(quiet)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	go func() { ended <- keeper.Run(ctx, nil) }()
	time.Sleep(quiet)
	keeper.Close()
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
}
