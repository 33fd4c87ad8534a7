// A picture dropped anywhere on the page is read in PNG Info. Where a field takes pictures itself, it gets the picture.
(() => {
  'use strict'
  const TAKES = '[data-testid="image"], .image-container, .rp-input, .rp-canvas, .gr-file, [data-testid="file-upload"], [data-drops]'
  let veil = null

  const carries = (event) => [...(event.dataTransfer?.types || [])].includes('Files')
  const taken = (event) => !!event.target.closest?.(TAKES)

  function show(on) {
    if (on && !veil) {
      veil = document.createElement('div')
      veil.className = 'rp-drop'
      veil.append(Object.assign(document.createElement('p'), { textContent: 'Drop the picture to read what is in it' }))
      document.body.append(veil)
    } else if (!on && veil) {
      veil.remove()
      veil = null
    }
  }

  document.addEventListener('dragover', (event) => {
    if (!carries(event)) return
    show(!taken(event))
    if (!taken(event)) event.preventDefault()
  }, true)

  document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) show(false) }, true)
  document.addEventListener('dragend', () => show(false), true)

  document.addEventListener('drop', (event) => {
    show(false)
    if (!carries(event) || taken(event)) return
    event.preventDefault()  // the browser would leave the page for the file
    event.stopPropagation()
    const file = [...event.dataTransfer.files].find((each) => each.type.startsWith('image/'))
    const input = document.querySelector('#rp_dropped')?.previousElementSibling  // of Gradio's upload button
    if (!file || !input?.matches('input[type=file]')) return
    const files = new DataTransfer()
    files.items.add(file)
    input.files = files.files
    input.dispatchEvent(new Event('change', { bubbles: true }))
  }, true)
})()
