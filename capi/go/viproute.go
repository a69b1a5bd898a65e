// Package viproute puts service VIPs on a Linux link, each in its single-route state: one address
// on the link, and in tables local and main exactly one route through the link to the VIP, whose
// preferred source is the node's own address.
//
// A [Manager] carries out calls: [Manager.Assign], [Manager.Release], [Manager.Reconcile] and
// others. A call that returns no error has seen every VIP in the desired state after its last
// write. A [Keeper] holds a desired set, and repairs what drifts.
//
// The package calls the C library libviproute. pkg-config finds the library as viproute, or with
// the build tag viproute_static as viproute-static, which is then part of the program.
//
// # Network namespaces
//
// A manager or keeper works in the network namespace of the thread that opened it, or in
// [Config.Netns]. Goroutines change threads: a program with threads in several namespaces sets
// [Config.Netns], or calls [runtime.LockOSThread] before it opens the manager. Later calls may come
// from any goroutine.
//
// # Privilege
//
// Calls that write need CAP_NET_ADMIN in the user namespace that owns the network namespace.
package viproute

// #include <stdlib.h>
// #include <viproute.h>
import "C"

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"sync"
	"unsafe"
)

// A Family names an address family in a [Config].
type Family string

// The families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// A Binding says how VIPs are put on the link.
type Binding string

// The bindings.
const (
	// BindAddress: each VIP has an address on the link, and its route.
	BindAddress Binding = "address"
	// BindRoute: each VIP has its route alone.
	BindRoute Binding = "route"
)

// A Config describes a manager or a keeper. Only Link or LinkIndex must be set.
type Config struct {
	// Link is the name of the link that holds the VIPs.
	Link string
	// LinkIndex is the index of that link, if it has no Link name here.
	LinkIndex uint32
	// Netns is the path of the network namespace. Empty: the calling thread's.
	Netns string
	// Sources are the node's addresses, at most one for each family.
	Sources []netip.Addr
	// KernelSource lists the families that keep the kernel's own local route.
	KernelSource []Family
	// Protocol is the protocol of the VIPs' routes. 0: kernel.
	Protocol uint8
	// AddressProtocol marks the addresses that are added. 0: no mark.
	AddressProtocol uint8
	// Binding is how VIPs are put on the link. Empty: BindAddress.
	Binding Binding
	// AvoidAsSource is "deprecated" or "address_label". Empty: neither.
	AvoidAsSource string
	// AddressLabel is the label for "address_label". 0: the library's own.
	AddressLabel uint32
	// Allow has ranges: addresses outside of them are no VIPs. Empty: no restriction.
	Allow []netip.Prefix
	// Deny has ranges whose addresses are no VIPs.
	Deny []netip.Prefix
	// CreateLink is "dummy" or "bridge": the kind of the link to create if it is missing.
	CreateLink string
	// BringUp lets calls bring the link up.
	BringUp bool
	// StallTimeoutSeconds is how long a call waits without progress. 0: 5 seconds.
	StallTimeoutSeconds float64
	// TotalTimeoutSeconds is how long a call may take. 0: no limit.
	TotalTimeoutSeconds float64
	// ReceiveBuffer is the size of the receive buffer in bytes. 0: 1 MiB.
	ReceiveBuffer int
}

// text is the configuration as the library reads it.
func (config Config) text() ([]byte, error) {
	var link any = config.Link
	if config.Link == "" {
		link = config.LinkIndex
	}
	return json.Marshal(struct {
		Link                any            `json:"link"`
		Netns               string         `json:"netns,omitempty"`
		Sources             []netip.Addr   `json:"sources,omitempty"`
		KernelSource        []Family       `json:"kernel_source,omitempty"`
		Protocol            uint8          `json:"protocol,omitempty"`
		AddressProtocol     uint8          `json:"address_protocol,omitempty"`
		Binding             Binding        `json:"binding,omitempty"`
		AvoidAsSource       string         `json:"avoid_as_source,omitempty"`
		AddressLabel        uint32         `json:"address_label,omitempty"`
		Allow               []netip.Prefix `json:"allow,omitempty"`
		Deny                []netip.Prefix `json:"deny,omitempty"`
		CreateLink          string         `json:"create_link,omitempty"`
		BringUp             bool           `json:"bring_up,omitempty"`
		StallTimeoutSeconds float64        `json:"stall_timeout_seconds,omitempty"`
		TotalTimeoutSeconds float64        `json:"total_timeout_seconds,omitempty"`
		ReceiveBuffer       int            `json:"receive_buffer,omitempty"`
	}{
		link, config.Netns, config.Sources, config.KernelSource, config.Protocol, config.AddressProtocol,
		config.Binding, config.AvoidAsSource, config.AddressLabel, config.Allow, config.Deny, config.CreateLink,
		config.BringUp, config.StallTimeoutSeconds, config.TotalTimeoutSeconds, config.ReceiveBuffer,
	})
}

// A Claim says which VIPs a call may remove because they are not desired. The zero Claim is no
// claim: calls refuse it.
type Claim struct {
	what   any
	atMost *int
}

// ClaimLink claims every VIP on the link.
func ClaimLink() Claim { return Claim{what: "link"} }

// ClaimMark claims the VIPs whose route has the configured Protocol, if that is not kernel, or whose
// address has the configured AddressProtocol.
func ClaimMark() Claim { return Claim{what: "mark"} }

// ClaimRanges claims the VIPs in the ranges.
func ClaimRanges(ranges ...netip.Prefix) Claim {
	return Claim{what: map[string][]netip.Prefix{"ranges": append([]netip.Prefix{}, ranges...)}}
}

// AtMost bounds how many VIPs a call releases. A call that would release more writes nothing, and
// returns [ErrTooManyReleases].
func (claim Claim) AtMost(vips int) Claim {
	claim.atMost = &vips
	return claim
}

func (claim Claim) text() ([]byte, error) {
	return json.Marshal(struct {
		Claim  any  `json:"claim"`
		AtMost *int `json:"at_most,omitempty"`
	}{claim.what, claim.atMost})
}

// Version is the version of the C library.
func Version() string { return C.GoString(C.viproute_version()) }

// A Manager carries out calls on the VIPs of one link. Its methods may be called from any
// goroutine; they wait for each other.
type Manager struct {
	// Close takes it for writing, every other method for reading.
	mutex  sync.RWMutex
	handle *C.viproute_manager
}

// Open opens a manager. It writes nothing to the kernel.
func Open(config Config) (*Manager, error) {
	text, err := config.text()
	if err != nil {
		return nil, err
	}
	cText := C.CString(string(text))
	defer C.free(unsafe.Pointer(cText))
	manager := &Manager{}
	var failed *C.viproute_error
	if code := C.viproute_open(cText, &manager.handle, &failed); code != C.VIPROUTE_CODE_OK {
		return nil, takeError(failed)
	}
	return manager, nil
}

// Close frees the manager, after the calls that run. The VIPs stay. Later calls return
// [os.ErrClosed].
func (manager *Manager) Close() error {
	manager.mutex.Lock()
	defer manager.mutex.Unlock()
	C.viproute_free(manager.handle)
	manager.handle = nil
	return nil
}

// Assign puts VIPs on the link, each in its single-route state.
//
// If some VIPs failed, the error is [ErrIncomplete], and the report has them. The others are
// verified. When ctx ends, the call stops, and returns the report of what it did.
func (manager *Manager) Assign(ctx context.Context, vips []netip.Addr) (*Report, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_assign(manager.handle, first(array), count, report, failed)
	})
}

// Normalize brings every VIP on the link into its single-route state, whichever program added it.
func (manager *Manager) Normalize(ctx context.Context) (*Report, error) {
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_normalize(manager.handle, report, failed)
	})
}

// NormalizeOnly is Normalize for these VIPs alone. A VIP that is not on the link fails as
// [CauseNotOnLink].
func (manager *Manager) NormalizeOnly(ctx context.Context, vips []netip.Addr) (*Report, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_normalize_only(manager.handle, first(array), count, report, failed)
	})
}

// Release removes VIPs from the link.
func (manager *Manager) Release(ctx context.Context, vips []netip.Addr) (*Report, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_release(manager.handle, first(array), count, report, failed)
	})
}

// Reconcile makes the claimed VIPs on the link exactly the desired ones.
//
// An empty set is refused with [ErrEmptySet]; see [Manager.ReleaseAll].
func (manager *Manager) Reconcile(ctx context.Context, claim Claim, desired []netip.Addr) (*Report, error) {
	text, err := claim.text()
	if err != nil {
		return nil, err
	}
	cText := C.CString(string(text))
	defer C.free(unsafe.Pointer(cText))
	array, count := toC(desired), C.size_t(len(desired))
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_reconcile(manager.handle, cText, first(array), count, report, failed)
	})
}

// ReleaseAll releases every claimed VIP on the link.
func (manager *Manager) ReleaseAll(ctx context.Context, claim Claim) (*Report, error) {
	text, err := claim.text()
	if err != nil {
		return nil, err
	}
	cText := C.CString(string(text))
	defer C.free(unsafe.Pointer(cText))
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_release_all(manager.handle, cText, report, failed)
	})
}

// SetSource sets the source of its family, and moves every VIP on the link to it.
func (manager *Manager) SetSource(ctx context.Context, source netip.Addr) (*Report, error) {
	array := toC([]netip.Addr{source})
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_set_source(manager.handle, first(array), report, failed)
	})
}

// SetBinding sets the binding, and moves every VIP on the link to it. For BindRoute, the link may get
// the placeholder address 127.86.73.80, which stays: without an IPv4 address a link has no IPv4 routes.
func (manager *Manager) SetBinding(ctx context.Context, binding Binding) (*Report, error) {
	// Another number, which the library refuses.
	number := C.uint32_t(C.UINT32_MAX)
	switch binding {
	case BindAddress:
		number = C.VIPROUTE_BINDING_ADDRESS
	case BindRoute:
		number = C.VIPROUTE_BINDING_ROUTE
	}
	return manager.call(ctx, func(report **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_set_binding(manager.handle, number, report, failed)
	})
}

// A Depth says how much an audit reads.
type Depth uint32

// The depths of an audit.
const (
	// AuditLink reads the link's addresses and routes.
	AuditLink Depth = C.VIPROUTE_AUDIT_LINK
	// AuditNode reads every route of the node, and finds conflicts with other devices.
	AuditNode Depth = C.VIPROUTE_AUDIT_NODE
)

// Audit returns the drift of every VIP on the link. It writes nothing and needs no privilege.
func (manager *Manager) Audit(ctx context.Context, depth Depth) (*Audit, error) {
	return manager.audit(ctx, func(audit **C.viproute_audit_result, failed **C.viproute_error) C.viproute_code {
		return C.viproute_audit(manager.handle, C.uint32_t(depth), audit, failed)
	})
}

// AuditOnly is Audit of the given VIPs alone. Each has its entry, also if it is not on the link. A few
// VIPs that are right cost a look-up each, in which a duplicate does not show.
func (manager *Manager) AuditOnly(ctx context.Context, vips []netip.Addr) (*Audit, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.audit(ctx, func(audit **C.viproute_audit_result, failed **C.viproute_error) C.viproute_code {
		return C.viproute_audit_only(manager.handle, first(array), count, audit, failed)
	})
}

func (manager *Manager) audit(
	ctx context.Context,
	run func(**C.viproute_audit_result, **C.viproute_error) C.viproute_code,
) (*Audit, error) {
	var audit *C.viproute_audit_result
	_, err := manager.call(ctx, func(_ **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return run(&audit, failed)
	})
	if err != nil {
		return nil, err
	}
	defer C.viproute_audit_free(audit)
	return takeAudit(audit), nil
}

// A Plan is what a call would do. No call executes a plan.
type Plan struct {
	// JSON has "steps", in order, each with its reason, and "failures".
	JSON json.RawMessage
	// Script has the steps as commands of ip(8), each with its reason as a comment.
	Script string
}

// Plan returns what Reconcile would do now. It writes nothing and needs no privilege. VIPs that would
// fail are no error.
func (manager *Manager) Plan(ctx context.Context, claim Claim, desired []netip.Addr) (*Plan, error) {
	text, err := claim.text()
	if err != nil {
		return nil, err
	}
	cText := C.CString(string(text))
	defer C.free(unsafe.Pointer(cText))
	array, count := toC(desired), C.size_t(len(desired))
	return manager.plan(ctx, func(plan **C.viproute_plan_result, failed **C.viproute_error) C.viproute_code {
		return C.viproute_plan(manager.handle, cText, first(array), count, plan, failed)
	})
}

// PlanAssign returns what Assign would do now: as Plan.
func (manager *Manager) PlanAssign(ctx context.Context, vips []netip.Addr) (*Plan, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.plan(ctx, func(plan **C.viproute_plan_result, failed **C.viproute_error) C.viproute_code {
		return C.viproute_plan_assign(manager.handle, first(array), count, plan, failed)
	})
}

// PlanRelease returns what Release would do now: as Plan.
func (manager *Manager) PlanRelease(ctx context.Context, vips []netip.Addr) (*Plan, error) {
	array, count := toC(vips), C.size_t(len(vips))
	return manager.plan(ctx, func(plan **C.viproute_plan_result, failed **C.viproute_error) C.viproute_code {
		return C.viproute_plan_release(manager.handle, first(array), count, plan, failed)
	})
}

func (manager *Manager) plan(
	ctx context.Context,
	run func(**C.viproute_plan_result, **C.viproute_error) C.viproute_code,
) (*Plan, error) {
	var plan *C.viproute_plan_result
	_, err := manager.call(ctx, func(_ **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return run(&plan, failed)
	})
	if err != nil {
		return nil, err
	}
	defer C.viproute_plan_free(plan)
	return &Plan{json.RawMessage(C.GoString(C.viproute_plan_json(plan))), C.GoString(C.viproute_plan_script(plan))}, nil
}

// call runs a call, and cancels it when the context ends.
func (manager *Manager) call(
	ctx context.Context,
	run func(**C.viproute_report, **C.viproute_error) C.viproute_code,
) (*Report, error) {
	manager.mutex.RLock()
	defer manager.mutex.RUnlock()
	if manager.handle == nil {
		return nil, os.ErrClosed
	}
	return cancellable(ctx, func() { C.viproute_cancel(manager.handle) }, run)
}

// cancellable runs a call, and cancels it when the context ends.
func cancellable(
	ctx context.Context,
	cancel func(),
	run func(**C.viproute_report, **C.viproute_error) C.viproute_code,
) (*Report, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		ended, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-ctx.Done():
				cancel()
			case <-ended:
			}
		}()
		// The handle must live until the goroutine has ended.
		defer func() { close(ended); <-stopped }()
	}
	for {
		var report *C.viproute_report
		var failed *C.viproute_error
		code := run(&report, &failed)
		// Another call's context ended when that call was over, so the cancellation came to this
		// call.
		if code == C.VIPROUTE_CODE_CANCELLED && ctx.Err() == nil {
			C.viproute_report_free(report)
			C.viproute_error_free(failed)
			continue
		}
		result := takeReport(report)
		if code == C.VIPROUTE_CODE_OK {
			return result, nil
		}
		err := takeError(failed)
		if code == C.VIPROUTE_CODE_CANCELLED {
			err.cause = ctx.Err()
		}
		return result, err
	}
}

// toC converts addresses. An invalid address has the family 0, which the library refuses.
func toC(vips []netip.Addr) []C.viproute_vip {
	array := make([]C.viproute_vip, len(vips))
	for at, vip := range vips {
		to := &array[at]
		switch {
		case vip.Is4():
			bytes := vip.As4()
			to.family = afInet
			*(*[4]byte)(unsafe.Pointer(&to.address)) = bytes
		case vip.Is6():
			to.family = afInet6
			*(*[16]byte)(unsafe.Pointer(&to.address)) = vip.As16()
		}
	}
	return array
}

// first is the place of an array for C.
func first(array []C.viproute_vip) *C.viproute_vip {
	if len(array) == 0 {
		return nil
	}
	return &array[0]
}

// fromC converts an address back.
func fromC(vip *C.viproute_vip) netip.Addr {
	bytes := (*[16]byte)(unsafe.Pointer(&vip.address))
	if vip.family == afInet {
		return netip.AddrFrom4(*(*[4]byte)(unsafe.Pointer(bytes)))
	}
	return netip.AddrFrom16(*bytes)
}
