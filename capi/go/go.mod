module viproute

go 1.19
