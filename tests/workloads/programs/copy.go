// Go's io.Copy between a file, a pipe and a socket, where its library tries splice(2), sendfile(2) and copy_file_range(2) first.
package main

import (
	"bytes"
	"io"
	"log"
	"net"
	"os"
)

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		client, err := net.Dial("tcp", listener.Addr().String())
		check(err)
		_, err = client.Write(sent)
		check(err)
		check(client.Close())
	}()
	// From a socket to a socket: splice(2) through a pipe.
	in, err := listener.Accept()
	check(err)
	relay, err := net.Listen("unix", "/tmp/relay.sock")
	check(err)
	go func() {
		out, err := net.Dial("unix", "/tmp/relay.sock")
		check(err)
		_, err = io.Copy(out, in)
		check(err)
		check(out.Close())
	}()
	last, err := relay.Accept()
	check(err)
	// From a socket to a file.
	file, err := os.Create("/tmp/received")
	check(err)
	_, err = io.Copy(file, last)
	check(err)
	_, err = file.Seek(0, 0)
	check(err)
	// From a file to a file: copy_file_range(2).
	copied, err := os.Create("/tmp/copied")
	check(err)
	_, err = io.Copy(copied, file)
	check(err)
	got, err := os.ReadFile("/tmp/copied")
	check(err)
	if !bytes.Equal(got, sent) {
		log.Fatal("the bytes differ")
	}
	println("copied", len(got))
}
