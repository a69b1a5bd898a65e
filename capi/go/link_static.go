//go:build viproute_static

package viproute

// #cgo pkg-config: viproute-static
import "C"
