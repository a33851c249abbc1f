// gitops judges objects as Argo CD and Flux would.
//
//	gitops HEALTH.lua < cases.jsonl
//
// Each line is {"state", "kstatus", "argo", "object"}. The verdict of kstatus comes from sigs.k8s.io/cli-utils, which Flux and
// `helm --wait` use; that of Argo CD from the script in gopher-lua with the libraries, the limit and the rules of Argo CD's own
// runner (util/lua). Prints each wrong verdict and a count; exit code 1 if there is one.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type testcase struct {
	State   string
	Kstatus string
	Argo    string
	Object  json.RawMessage
}

func main() {
	if len(os.Args) != 2 {
		fail(fmt.Errorf("usage: gitops HEALTH.lua < cases.jsonl"))
	}
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		fail(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	total, wrong := 0, 0
	for lines.Scan() {
		var c testcase
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fail(err)
		}
		total++
		object := &unstructured.Unstructured{}
		// Kubernetes' own reader: integers stay integers.
		if err := utiljson.Unmarshal(c.Object, &object.Object); err != nil {
			fail(err)
		}
		about := fmt.Sprintf("%s %s (%s)", object.GetKind(), object.GetName(), c.State)
		result, err := status.Compute(object)
		if err != nil {
			fail(fmt.Errorf("%s: %w", about, err))
		}
		if string(result.Status) != c.Kstatus {
			wrong++
			fmt.Printf("%s: kstatus says %s (%s), not %s\n", about, result.Status, result.Message, c.Kstatus)
		}
		verdict, message, err := health(object, string(script))
		if err != nil {
			fail(fmt.Errorf("%s: %w", about, err))
		}
		if verdict != c.Argo {
			wrong++
			fmt.Printf("%s: Argo CD says %s (%s), not %s\n", about, verdict, message, c.Argo)
		}
		if message == "" {
			wrong++
			fmt.Printf("%s: Argo CD shows no message\n", about)
		}
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
	if total == 0 {
		fail(fmt.Errorf("no cases on stdin"))
	}
	fmt.Printf("%d objects judged, %d wrong verdicts\n", total, wrong)
	if wrong > 0 {
		os.Exit(1)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "gitops:", err)
	os.Exit(1)
}

// health is gitops-engine's GetResourceHealth: an object being deleted is Progressing whatever a script says.
func health(object *unstructured.Unstructured, script string) (string, string, error) {
	if object.GetDeletionTimestamp() != nil {
		return "Progressing", "Pending deletion", nil
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	// Argo CD opens these and no string or math library unless the installer says so.
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	} {
		state.Push(state.NewFunction(library.open))
		state.Push(lua.LString(library.name))
		state.Call(1, 0)
	}
	limit, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	state.SetContext(limit)
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", "", err
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", "", fmt.Errorf("the script returns %s, not a table", state.Get(-1).Type())
	}
	verdict, message := answer.RawGetString("status").String(), answer.RawGetString("message")
	known := []string{"Healthy", "Progressing", "Suspended", "Degraded", "Missing", "Unknown"}
	if !slices.Contains(known, verdict) {
		return "", "", fmt.Errorf("%s is no health status", verdict)
	}
	text, _ := message.(lua.LString)
	return verdict, string(text), nil
}

func value(state *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case string:
		return lua.LString(v)
	case bool:
		return lua.LBool(v)
	case float64:
		return lua.LNumber(v)
	case int64:
		return lua.LNumber(v)
	case []any:
		table := state.CreateTable(len(v), 0)
		for _, one := range v {
			table.Append(value(state, one))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(v))
		for name, one := range v {
			table.RawSetString(name, value(state, one))
		}
		return table
	}
	return lua.LNil
}
