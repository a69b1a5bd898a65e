package viproute

// #include <viproute.h>
import "C"

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A Watcher returns what happens to the VIPs of a link. It needs no privilege. One goroutine at a time
// may call [Watcher.Next]; any goroutine may call [Watcher.Close].
type Watcher struct {
	// Close takes it for writing, Next for reading.
	mutex  sync.RWMutex
	handle *C.viproute_watcher
	closed atomic.Bool
	// Ends the wait of Next.
	wake waker
}

// An EventKind is what a watcher saw.
type EventKind int32

// The kinds of events.
const (
	// EventVIP: a VIP changed. Several changes of one VIP in one burst are one event.
	EventVIP EventKind = C.VIPROUTE_EVENT_KIND_VIP
	// EventNodeAddressSet: an address of the node outside the link was added or changed.
	EventNodeAddressSet EventKind = C.VIPROUTE_EVENT_KIND_NODE_ADDRESS_SET
	// EventNodeAddressRemoved: an address of the node outside the link was removed.
	EventNodeAddressRemoved EventKind = C.VIPROUTE_EVENT_KIND_NODE_ADDRESS_REMOVED
	// EventLinkUp, EventLinkDown and EventLinkGone: the link is up, is down, or exists no more.
	EventLinkUp   EventKind = C.VIPROUTE_EVENT_KIND_LINK_UP
	EventLinkDown EventKind = C.VIPROUTE_EVENT_KIND_LINK_DOWN
	EventLinkGone EventKind = C.VIPROUTE_EVENT_KIND_LINK_GONE
	// EventResync: notifications were lost. Audit or reconcile.
	EventResync EventKind = C.VIPROUTE_EVENT_KIND_RESYNC
)

// String is the library's name, as "link_up".
func (kind EventKind) String() string {
	if name := C.viproute_event_kind_name(C.int32_t(kind)); name != nil {
		return C.GoString(name)
	}
	return "unknown"
}

// A Change is a set of flags: what changed of a VIP.
type Change uint32

// The flags of a Change.
const (
	AddressSet     Change = C.VIPROUTE_CHANGE_ADDRESS_SET
	AddressRemoved Change = C.VIPROUTE_CHANGE_ADDRESS_REMOVED
	RouteSet       Change = C.VIPROUTE_CHANGE_ROUTE_SET
	RouteRemoved   Change = C.VIPROUTE_CHANGE_ROUTE_REMOVED
	ForeignRoute   Change = C.VIPROUTE_CHANGE_FOREIGN_ROUTE
)

// An Origin is a set of flags: who changed a VIP.
type Origin uint32

// The flags of an Origin.
const (
	// ByManager: the manager that opened the watcher.
	ByManager Origin = C.VIPROUTE_ORIGIN_OURS
	// ByOther: another process, or another manager.
	ByOther Origin = C.VIPROUTE_ORIGIN_OTHER
	// ByKernel: the kernel itself.
	ByKernel Origin = C.VIPROUTE_ORIGIN_KERNEL
	// ByUnknown: the kernel does not say.
	ByUnknown Origin = C.VIPROUTE_ORIGIN_UNKNOWN
)

// An Event is something that happened.
type Event struct {
	Kind EventKind
	// Address is the VIP, or the address of the node. An event of the link has none.
	Address netip.Addr
	// Change and Origin say what changed of the VIP, and by whom.
	Change Change
	Origin Origin
	// Index is the index of the link that is up or down, else 0.
	Index uint32
}

// Watch opens a watcher of the manager's link. The watcher may outlive the manager.
func (manager *Manager) Watch() (*Watcher, error) {
	wake, err := newWaker()
	if err != nil {
		return nil, err
	}
	watcher := &Watcher{wake: wake}
	_, err = manager.call(context.Background(), func(_ **C.viproute_report, failed **C.viproute_error) C.viproute_code {
		return C.viproute_watcher_open(manager.handle, &watcher.handle, failed)
	})
	if err != nil {
		wake.close()
		return nil, err
	}
	return watcher, nil
}

// Close ends Next and frees the watcher. Later calls return [os.ErrClosed].
func (watcher *Watcher) Close() error {
	if watcher.closed.Swap(true) {
		return nil
	}
	// Only this call closes the pipe.
	watcher.wake.wakeUp()
	watcher.mutex.Lock()
	defer watcher.mutex.Unlock()
	C.viproute_watcher_free(watcher.handle)
	watcher.handle = nil
	watcher.wake.close()
	return nil
}

// Next returns the next event, and waits for it. It returns the context's error when ctx ends, and
// [os.ErrClosed] after Close.
func (watcher *Watcher) Next(ctx context.Context) (Event, error) {
	watcher.mutex.RLock()
	defer watcher.mutex.RUnlock()
	if ctx.Done() != nil {
		ended, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-ctx.Done():
				watcher.wake.wakeUp()
			case <-ended:
			}
		}()
		// The pipe must be open until the goroutine has ended.
		defer func() { close(ended); <-stopped }()
	}
	for {
		if watcher.closed.Load() {
			return Event{}, os.ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return Event{}, err
		}
		var e C.viproute_event
		var failed *C.viproute_error
		if code := C.viproute_watcher_next(watcher.handle, &e, C.size_t(unsafe.Sizeof(e)), &failed); code != C.VIPROUTE_CODE_OK {
			return Event{}, takeError(failed)
		}
		if e.kind == C.VIPROUTE_EVENT_KIND_NONE {
			watcher.wake.wait(C.viproute_watcher_fd(watcher.handle), -1)
			continue
		}
		event := Event{Kind: EventKind(e.kind), Change: Change(e.change), Origin: Origin(e.origin), Index: uint32(e.index)}
		if e.address.family != 0 {
			event.Address = fromC(&e.address)
		}
		return event, nil
	}
}
