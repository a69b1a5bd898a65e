//go:build !netlink

package main

// Without the package netlink there is nothing to compare with.
func peers() []way { return nil }
