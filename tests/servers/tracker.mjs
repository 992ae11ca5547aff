// A tracker by bittorrent-tracker:  tracker.mjs FOLDER-OF-BITTORRENT-TRACKER HOST PORT SECONDS-BETWEEN-ANNOUNCES
// It takes announces over HTTP and UDP. Its own command line cannot be had without the binary parts of WebRTC.

const [folder, host, port, interval] = process.argv.slice(2)
const { default: Server } = await import(`${folder}/server.js`)

const server = new Server({ http: true, udp: true, ws: false, stats: false, interval: Number(interval) * 1000 })
server.udp6.close()
server.udp6 = null
for (const event of ['warning', 'start', 'complete', 'stop', 'update']) {
  server.on(event, about => console.log(event, about.message ?? about))
}
server.on('error', error => { throw error })
server.listen(Number(port), host)
