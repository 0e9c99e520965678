package main

import (
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/logs"
	metricsserver "sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

// metrics-server supports fewer Kubernetes versions than the other programs, so older.sh leaves this file out.
func init() {
	others["metrics-server"] = func() error {
		logs.InitLogs()
		defer logs.FlushLogs()
		return metricsserver.NewMetricsServerCommand(genericapiserver.SetupSignalHandler()).Execute()
	}
}
